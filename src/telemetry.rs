//! Logs of the host: pretty on a terminal, one JSON object a line elsewhere,
//! always on stderr. The only place where a subscriber is installed.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// How much is logged where nothing else is asked for.
const DEFAULT: &str = "info,sqlx=warn,hyper=warn,reqwest=warn,wasmtime=warn,cranelift=warn";

/// Why logging cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("`{filter}` is not a log filter: {cause}")]
pub struct InvalidFilter {
    filter: String,
    cause: String,
}

/// Installs the subscriber. `filter` has the syntax of `RUST_LOG`; without one
/// the verbosity counts: none is warnings for commands, `info` for the host.
///
/// # Errors
/// When the filter makes no sense.
pub fn install(filter: Option<&str>, default: Verbosity) -> Result<(), InvalidFilter> {
    let text = filter.unwrap_or(match default {
        Verbosity::Quiet => "error",
        Verbosity::Command => "warn",
        Verbosity::Host => DEFAULT,
        Verbosity::Debug => "debug,sqlx=info,hyper=info,cranelift=info,wasmtime=info",
    });
    let filter = EnvFilter::try_new(text).map_err(|cause| InvalidFilter {
        filter: text.to_owned(),
        cause: cause.to_string(),
    })?;
    let terminal = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false);
    // A second call, as in tests, keeps the first subscriber.
    let _ = if terminal {
        // By NO_COLOR, CLICOLOR, CLICOLOR_FORCE and TERM, as the help is.
        let choice = anstream::AutoStream::choice(&std::io::stderr());
        let colour = choice != anstream::ColorChoice::Never;
        builder
            .compact()
            .with_ansi(colour)
            .with_timer(tracing_subscriber::fmt::time::SystemTime)
            .try_init()
    } else {
        builder
            .json()
            .flatten_event(true)
            .with_ansi(false)
            .with_timer(tracing_subscriber::fmt::time::SystemTime)
            .try_init()
    };
    Ok(())
}

/// How much to log without a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verbosity {
    Quiet,
    /// A command that ends by itself.
    Command,
    /// The running host.
    Host,
    Debug,
}
