//! `run`: the host until a signal, or until nothing is left to do.

use std::io;

use clap::Args;
use serde_json::json;
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::output::{Exit, Failure, Outcome, Output};
use super::{Config, Context};
use crate::host::{Host, HostError, PluginsError};
use crate::store::OwnershipError;

#[derive(Args)]
pub struct RunArgs {
    /// End once nothing runs and nothing waits that could run: with 0, or with 3
    /// where tasks of held routes are left, which are told then.
    #[arg(long)]
    until_idle: bool,
    /// Port of the API; 0 takes a free one.
    #[arg(long)]
    port: Option<u16>,
    /// Attempts at once on this host.
    #[arg(long)]
    concurrency: Option<u32>,
    /// Run real and mock for every task and keep the difference (development).
    #[arg(long)]
    compare: bool,
}

pub fn run(mut context: Context, args: RunArgs) -> Outcome {
    if let Some(port) = args.port {
        context.layers.set_flag("port", "port", port.to_string());
    }
    if let Some(concurrency) = args.concurrency {
        let text = concurrency.to_string();
        context.layers.set_flag("concurrency", "concurrency", text);
    }
    if args.compare {
        context.layers.set_flag("compare", "compare", "true");
    }
    let config = context.config()?;
    let output = context.output;
    with_guests(&config, async |guests| {
        // Listened to before anything is claimed: a signal must never end a
        // host that holds leases without a drain.
        let mut signals = Signals::listen().map_err(anyhow::Error::new)?;
        let host = tokio::select! {
            host = Host::start(&config, args.until_idle, guests) => host?,
            _ = signals.next() => return Ok(Exit::Ok),
        };
        let ready = json!({ "api": host.api_url(), "holder": host.holder().as_str() });
        // One line, so that whoever started the host can wait for it.
        let said = output.line("ready", &ready, || {
            format!("cogo-host serves {}", host.api_url())
        });
        if let Err(failure) = said {
            host.stop().await;
            return Err(failure);
        }
        let ended = until_signal(&host, signals).await;
        let told = match ended {
            Ended::Idle => tell_held(&host, output).await,
            Ended::Asked => Ok(Exit::Ok),
        };
        host.stop().await;
        told
    })
}

/// Tells of the tasks that a host leaves behind which ends since it is idle:
/// whoever waits for an empty queue must not take them for done.
async fn tell_held(host: &Host, output: Output) -> Outcome {
    let held = host.held_tasks().await?;
    if held.is_empty() {
        return Ok(Exit::Ok);
    }
    output.line("idle", &json!({ "held": held }), || {
        let lines: Vec<String> = held
            .iter()
            .map(|held| format!("{} tasks wait on {}: {}", held.tasks, held.route, held.why))
            .collect();
        lines.join("\n")
    })?;
    Ok(Exit::Inconclusive)
}

/// Runs a host around `work`, and drains it afterwards.
pub fn on_host(config: &Config, work: impl AsyncFnOnce(&Host) -> Outcome) -> Outcome {
    with_guests(config, async |guests| {
        let host = Host::start(config, false, guests).await?;
        let outcome = work(&host).await;
        host.stop().await;
        outcome
    })
}

/// Does `work` with a runtime for guests at hand.
pub fn with_guests<T>(
    config: &Config,
    work: impl AsyncFnOnce(&Handle) -> Outcome<T>,
) -> Outcome<T> {
    let io = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("cogo-io")
        .enable_all()
        .build()
        .map_err(anyhow::Error::new)?;
    // Guests have threads of their own, so that one that never yields cannot
    // hold up a heartbeat.
    let guests = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.guest_threads)
        .thread_name("cogo-guest")
        .enable_all()
        .build()
        .map_err(anyhow::Error::new)?;
    let outcome = io.block_on(work(guests.handle()));
    // A guest that is stuck in a host call must not hold up the end.
    guests.shutdown_background();
    io.shutdown_background();
    outcome
}

/// The signals that end a host. Once they are listened to, none of them ends the
/// process by itself.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// # Errors
    /// Where the operating system gives no handler.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for a signal; the exit code of a process that it ended.
    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.terminate.recv() => 143,
            _ = self.interrupt.recv() => 130,
        }
    }
}

/// Why a host ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was to end once idle, and is.
    Idle,
    /// By a signal.
    Asked,
}

/// Until the bus has ended by itself, or a signal asks for a drain. A second
/// signal ends the process at once.
pub async fn until_signal(host: &Host, mut signals: Signals) -> Ended {
    tokio::select! {
        () = host.bus().finished() => return Ended::Idle,
        _ = signals.next() => {}
    }
    tracing::info!(
        in_flight = host.bus().in_flight(),
        "draining; a second signal ends at once"
    );
    tokio::spawn(async move {
        let code = signals.next().await;
        tracing::warn!("ending at once; leases of running attempts will expire and be rescued");
        std::process::exit(code);
    });
    Ended::Asked
}

impl From<PluginsError> for Failure {
    fn from(error: PluginsError) -> Self {
        HostError::from(error).into()
    }
}

impl From<HostError> for Failure {
    fn from(error: HostError) -> Self {
        let (exit, code) = match error {
            HostError::Config(error) => return error.into(),
            HostError::Store(error) => return error.into(),
            HostError::Owned(OwnershipError::Owned { .. }) => (Exit::Unavailable, "bus_owned"),
            HostError::Owned(OwnershipError::Io { .. }) => (Exit::Unavailable, "bus_unavailable"),
            HostError::Listen { .. } => (Exit::Unavailable, "port_unavailable"),
            HostError::Bucket(_) => (Exit::Usage, "artifacts_invalid"),
            HostError::NotLoopback(_) => (Exit::Usage, "token_missing"),
            HostError::TokenFile { .. } | HostError::Tokens(_) => (Exit::Usage, "token_unusable"),
            HostError::Plugins(_) => (Exit::Usage, "plugins_unusable"),
            HostError::Settings(_) => (Exit::Usage, "config_invalid"),
        };
        let hint = error.hint();
        Self::new(exit, code, error).hint(hint)
    }
}
