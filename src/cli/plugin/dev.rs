//! `plugin dev`: at every change of the sources, from the compiler to the
//! running host. What fails on the way stops there, and the version that was
//! good keeps serving.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use tokio::runtime::Handle;

use super::super::connection::host_of;
use super::super::output::{Exit, Failure, Outcome, Output};
use super::super::{Context, run};
use super::{build, test};
use crate::api::PluginView;
use crate::config::Config;
use crate::expect::Difference;
use crate::host;
use crate::ids::{Digest, PluginName};
use crate::millis::millis;
use crate::packaging::{self, LockFile, Packaged, Watch};
use crate::plugin::load::{Candidate, Loader, Plugin, Source};
use crate::plugin::sandbox::Runtimes;
use crate::trial::Trials;
use crate::trial::golden::Golden;

/// How often the sources are looked at; twice the same is what is built.
const LOOK: Duration = Duration::from_millis(100);
/// How long a host may take to serve what lies in its directory.
const HOST_PATIENCE: Duration = Duration::from_secs(10);
const HOST_LOOK: Duration = Duration::from_millis(20);

#[derive(Args)]
#[command(
    after_help = "Examples:\n  cogo-host plugin dev my-runner\n  cogo-host plugin dev . --into plugins\n  cogo-host plugin dev . --once"
)]
pub struct DevArgs {
    /// Where the sources lie.
    #[arg(default_value = ".")]
    directory: PathBuf,
    /// The plugins directory that the component goes into; COGO_PLUGINS_DIR by
    /// default.
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    /// End after the first round, with its result.
    #[arg(long)]
    once: bool,
}

/// What came of one round.
#[derive(Debug, Serialize)]
struct Round {
    name: PluginName,
    version: String,
    digest: Digest,
    compile_ms: u64,
    /// Until the machine code was there and the plugin had said what it is.
    check_ms: u64,
    /// What the golden tasks took.
    test_ms: u64,
    /// Until a host served it, where one runs.
    serve_ms: u64,
    /// From the end of the compiler to the result: the three together.
    result_ms: u64,
    /// How many golden tasks came out as expected.
    golden: usize,
    /// Where the component was put.
    file: Option<PathBuf>,
    served: Served,
}

/// Whether a host runs it by now.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Served {
    /// By the host at this address.
    By(String),
    /// No host of these settings runs.
    NoHost,
    /// There is no directory to put it into.
    NoDirectory,
}

pub fn dev(context: &Context, args: DevArgs) -> Outcome {
    let config = context.config()?;
    // What is no plugin at all does not become one by waiting.
    packaging::outline(&args.directory).map_err(|error| build::unbuilt(error.into()))?;
    let into = args.into.clone().or_else(|| config.plugins_dir.clone());
    let output = context.output;
    run::with_guests(&config, async |guests| {
        let loader = host::plugin_loader(&config, guests)?;
        let runtimes = Runtimes {
            guest: guests.clone(),
            io: Handle::current(),
        };
        let bench = Bench {
            config: &config,
            trials: Trials::new(loader.clone(), runtimes),
            loader,
            directory: args.directory.clone(),
            into,
        };
        if args.once {
            let round = bench.round().await?;
            tell(output, &round)?;
            return Ok(Exit::Ok);
        }
        output.note(format_args!(
            "watching {}; Ctrl-C ends it",
            args.directory.display()
        ));
        tokio::select! {
            ended = bench.keep_going(output) => ended,
            _ = tokio::signal::ctrl_c() => Ok(Exit::Ok),
        }
    })
}

/// What every round works with.
struct Bench<'a> {
    config: &'a Config,
    loader: Loader,
    trials: Trials,
    directory: PathBuf,
    into: Option<PathBuf>,
}

impl Bench<'_> {
    async fn keep_going(&self, output: Output) -> Outcome {
        let mut watch = Watch::new(&self.directory);
        let mut dirty = false;
        loop {
            let changed = watch.has_changed();
            dirty |= changed;
            if dirty && !changed {
                dirty = false;
                match self.round().await {
                    Ok(round) => tell(output, &round)?,
                    Err(failure) => {
                        output.failure(&failure);
                        output.note("the version that was good keeps serving");
                    }
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Build, check, test, put in place, and wait until it serves.
    async fn round(&self) -> Outcome<Round> {
        let started = Instant::now();
        let directory = self.directory.clone();
        let built =
            tokio::task::spawn_blocking(move || packaging::build(&directory, LockFile::Update));
        let packaged = built
            .await
            .map_err(anyhow::Error::new)?
            .map_err(build::unbuilt)?;
        let compiled = Instant::now();
        let plugin = self.check(&packaged).await?;
        let checked = Instant::now();
        let golden = self.test(&packaged).await?;
        let tested = Instant::now();
        let file = match &self.into {
            None => None,
            Some(into) => Some(put(into, &plugin, &packaged.bytes)?),
        };
        let served = match &file {
            None => Served::NoDirectory,
            Some(_) => self.wait_until_served(&plugin).await?,
        };
        Ok(Round {
            name: plugin.name().clone(),
            version: plugin.descriptor().version.to_string(),
            digest: plugin.digest(),
            compile_ms: millis(compiled - started),
            check_ms: millis(checked - compiled),
            test_ms: millis(tested - checked),
            serve_ms: millis(tested.elapsed()),
            result_ms: millis(compiled.elapsed()),
            golden,
            file,
            served,
        })
    }

    /// As a host would load it, so that no host is handed what it would refuse.
    async fn check(&self, packaged: &Packaged) -> Outcome<Arc<Plugin>> {
        let name: Option<PluginName> = packaged.stamp.name.parse().ok();
        let settings = host::plugin_settings(self.config, name.as_ref(), Source::Directory);
        let candidate = self.candidate(packaged);
        let loaded = self.loader.load(candidate, &settings).await;
        let plugin = loaded.map_err(|error| super::refused(Exit::Negative, error))?;
        Ok(Arc::new(plugin))
    }

    /// Runs the golden tasks, of which the first that fails ends the round.
    async fn test(&self, packaged: &Packaged) -> Outcome<usize> {
        let goldens = Golden::find(&self.directory).map_err(test::unreadable)?;
        for golden in &goldens {
            let candidate = self.candidate(packaged);
            let tried = golden.run(&self.trials, candidate).await;
            let tried = tried.map_err(super::run::not_run)?;
            if let Some(first) = tried.differences.iter().flatten().next() {
                return Err(golden_failed(&golden.name, first, &self.directory));
            }
        }
        Ok(goldens.len())
    }

    fn candidate(&self, packaged: &Packaged) -> Candidate {
        Candidate {
            // The file is called after what the plugin says of itself.
            name: None,
            bytes: packaged.bytes.clone().into(),
            source: Source::Directory,
            place: self.directory.display().to_string(),
            signer: None,
        }
    }

    async fn wait_until_served(&self, plugin: &Plugin) -> Outcome<Served> {
        #[derive(serde::Deserialize)]
        struct Listing {
            plugins: Vec<PluginView>,
        }
        let Some(host) = host_of(self.config).await? else {
            return Ok(Served::NoHost);
        };
        let deadline = Instant::now() + HOST_PATIENCE;
        loop {
            let listing = match host.get::<Listing>("/api/plugins").await {
                Ok(listing) => listing,
                Err(failure) if failure.exit == Exit::Unavailable => return Ok(Served::NoHost),
                Err(failure) => return Err(failure),
            };
            let own = listing
                .plugins
                .into_iter()
                .find(|view| view.name == *plugin.name());
            let serving = own.as_ref().and_then(|view| view.serving.as_ref());
            if serving.is_some_and(|serving| serving.digest == plugin.digest()) {
                return Ok(Served::By(host.base().to_owned()));
            }
            if Instant::now() > deadline {
                return Err(not_served(own));
            }
            tokio::time::sleep(HOST_LOOK).await;
        }
    }
}

fn golden_failed(name: &str, difference: &Difference, directory: &Path) -> Failure {
    let message = format!("golden task `{name}`: {difference}");
    let shown = directory.display();
    Failure::message(Exit::Negative, "golden_failed", message)
        .hint(format!("`cogo-host plugin test {shown}` shows all of it"))
}

/// The host's own words, if it said why.
fn not_served(own: Option<PluginView>) -> Failure {
    let told = own.and_then(|view| Some((view.last_error?, view.hint)));
    let (message, hint) = match told {
        Some((error, hint)) => (format!("the host refused it: {error}"), hint),
        None => (
            format!("the host did not take it within {} s", HOST_PATIENCE.as_secs()),
            Some("is its plugins directory the one named here? `cogo-host config show` shows COGO_PLUGINS_DIR".to_owned()),
        ),
    };
    Failure::message(Exit::Negative, "not_served", message).maybe_hint(hint)
}

fn put(into: &Path, plugin: &Plugin, bytes: &[u8]) -> Outcome<PathBuf> {
    std::fs::create_dir_all(into).map_err(|error| {
        let error = anyhow::Error::new(error).context(format!("cannot make {}", into.display()));
        Failure::new(Exit::Usage, "output_unwritable", error)
    })?;
    let file = into.join(format!("{}.wasm", plugin.name()));
    build::write(&file, bytes)?;
    Ok(file)
}

fn tell(output: Output, round: &Round) -> Outcome<()> {
    output.line("plugin-dev", round, || {
        let digest: String = round.digest.to_string().chars().take(19).collect();
        let served = match &round.served {
            Served::By(api) => format!("serves on {api}"),
            Served::NoHost => "in place; no host runs here".to_owned(),
            Served::NoDirectory => {
                "not put anywhere; name a plugins directory with --into or COGO_PLUGINS_DIR"
                    .to_owned()
            }
        };
        format!(
            "{} {} {digest}: compiled in {} ms, fits, {} golden tasks hold, {served}; {} ms after the compiler",
            round.name, round.version, round.compile_ms, round.golden, round.result_ms
        )
    })
}
