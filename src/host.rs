//! The host, put together: store, plugins, routes, bus and API, in the order in
//! which a mistake shows earliest.
//!
//! The composition root. It decides nothing about tasks; whoever needs a
//! decision finds it in [`crate::selection`], [`crate::gate`] or
//! [`crate::task`].

mod breakers;
mod controls;
mod deciding;
mod facts;
mod holds;
mod live_routes;
mod operator;
mod pipelines;
mod plugin_views;
mod plugins;
mod probes;
mod recorder;
mod rollouts;
mod route_operator;
mod routes;
mod serving;
mod swap;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api::{self, Api, Auth, HostNames, InvalidTokens, NoTokens, Tokens};
use crate::artifacts::bucket::{Bucket, InvalidBucket};
use crate::artifacts::directory::Directory;
use crate::artifacts::published::{Contents, PublishedArtifacts};
use crate::bus::{self, BusHandle, BusSettings};
use crate::config::{ArtifactsBase, Config, ConfigError};
use crate::ids::HolderId;
use crate::plugin::catalog::Catalog;
use crate::plugin::sandbox::{Runtimes, Sandbox};
use crate::plugin::watcher::Watcher;
use crate::stage::Stage;
use crate::store::{
    self, BusUrl, HostBeat, OpenMode, OwnerLock, OwnershipError, Retention, Store, StoreError,
};
use breakers::{Breakers, Pace};
pub use controls::LiveControls;
use facts::Facts;
pub use holds::HeldTasks;
pub use live_routes::LiveRoutes;
use operator::Operator;
pub use operator::publish;
use pipelines::Pipelines;
pub use plugin_views::{directory as directory_view, plugins as plugin_views};
pub use plugins::PluginsError;
pub use plugins::loader as plugin_loader;
pub use plugins::settings as plugin_settings;
pub use plugins::trust;
pub use recorder::Recorder;
use rollouts::Rollouts;
use route_operator::Desk;
pub use routes::{LoadedPlugin, LoadedPlugins, RouteEntry, RouteProblem, RouteTable};
pub use swap::{Decisions, Fetched, Started, SwapEvent, Swapper};

/// How often the host shows itself on the bus.
const BEAT: Duration = Duration::from_secs(10);
/// How long news of other plugins waits for more.
const GATHER: Duration = Duration::from_millis(50);
/// How long a guest may take to give way; the sandbox cuts it a little earlier.
const STOP_GRACE: Duration = Duration::from_secs(2);
/// How long the database may take over the end of a host that has drained.
const GOODBYE: Duration = Duration::from_secs(5);

/// Why the host does not start.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Owned(#[from] OwnershipError),
    #[error("cannot listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    NotLoopback(#[from] NoTokens),
    #[error("`{}`", path.display())]
    TokenFile {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Tokens(#[from] InvalidTokens),
    #[error(transparent)]
    Bucket(#[from] InvalidBucket),
    #[error(transparent)]
    Plugins(#[from] PluginsError),
    #[error(transparent)]
    Settings(#[from] bus::InvalidSettings),
}

impl HostError {
    /// What the operator can do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Config(error) => error.hint.clone().unwrap_or_default(),
            Self::Store(error) => error.hint().to_owned(),
            Self::Owned(OwnershipError::Io { .. }) => "the directory of the database must exist, and this user must be allowed to write there".to_owned(),
            Self::Owned(OwnershipError::Owned { .. }) => "stop that host, use its API, or give this one another bus with DATABASE_URL or --state-dir".to_owned(),
            Self::Listen { .. } => "choose another port with PORT or --port; 0 takes a free one".to_owned(),
            Self::NotLoopback(_) => "set COGO_HOST_TOKEN or COGO_HOST_TOKEN_FILE, or bind to 127.0.0.1".to_owned(),
            Self::TokenFile { .. } => "COGO_HOST_TOKEN_FILE names a readable file of `name:token` lines".to_owned(),
            Self::Tokens(_) => "expected one `name:token` a line, the token at least 16 visible ASCII characters".to_owned(),
            Self::Bucket(_) => "ARTIFACTS_BASE is s3://BUCKET/PREFIX; AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY say who asks, AWS_ENDPOINT_URL where a store is that is not Amazon's".to_owned(),
            Self::Plugins(error) => error.hint(),
            Self::Settings(_) => "correct the setting; `cogo-host config show --origin` tells where it is".to_owned(),
        }
    }
}

/// A running host.
pub struct Host {
    store: Arc<dyn Store>,
    bus: BusHandle,
    routes: Arc<LiveRoutes>,
    api_url: String,
    ending: CancellationToken,
    background: Vec<JoinHandle<()>>,
    // Released last: another host may open the file only after this one let go.
    _owner: Option<OwnerLock>,
}

impl Host {
    /// Starts everything on the current runtime, guests on theirs.
    ///
    /// # Errors
    /// [`HostError`] names what cannot work, before anything is claimed.
    pub async fn start(
        config: &Config,
        until_idle: bool,
        guests: &Handle,
    ) -> Result<Self, HostError> {
        config.make_state_dir()?;
        let owner = own(&config.bus)?;
        let store = open_store(&config.bus).await?;
        let loader = plugins::loader(config, guests)?;
        let Started {
            swapper,
            watcher,
            mut events,
        } = Swapper::start(config, loader).await?;
        let swapper = Arc::new(swapper);
        let catalog = Arc::clone(swapper.catalog());
        let controls = Arc::new(LiveControls::default());
        controls.refresh(&*store).await?;
        // Nothing is claimed before what is decided serves.
        events.extend(serving::prepare(&swapper, &controls, &*store).await);
        let plugins = Arc::clone(&swapper) as _;
        let routes = Arc::new(LiveRoutes::start(config, plugins, Arc::clone(&controls))?);
        let auth = auth(config)?;
        let listener = listen(config).await?;
        let address = listener.local_addr().map_err(|source| HostError::Listen {
            address: asked_address(config),
            source,
        })?;
        let api_url = url_at(address);
        let artifacts = artifacts(config, &api_url, &store)?;
        let holder = HolderId::generate(&config.holder_id);
        let sandbox = sandbox(Arc::clone(&catalog), guests, &artifacts);
        let bus = bus::start(
            Arc::clone(&store),
            Arc::new(sandbox),
            Arc::clone(&routes) as _,
            holder,
            bus_settings(config, until_idle),
        )?;
        let ending = CancellationToken::new();
        let (recorder, recording) = Recorder::start(Arc::clone(&store), ending.clone());
        let following = Following {
            swapper: Arc::clone(&swapper),
            routes: Arc::clone(&routes),
            controls: Arc::clone(&controls),
            store: Arc::clone(&store),
            recorder: recorder.clone(),
            bus: bus.clone(),
        };
        let mut background = following.start(watcher, events, &ending);
        let breakers = Breakers {
            store: Arc::clone(&store),
            routes: Arc::clone(&routes),
            holder: bus.holder().clone(),
            timing: config.breaker,
            pace: Pace::default(),
        };
        let rollouts = Rollouts {
            store: Arc::clone(&store),
            holder: bus.holder().clone(),
            thresholds: config.gate.thresholds,
            pace: Default::default(),
        };
        let deciding = deciding::follow(
            Arc::clone(&controls),
            (breakers, rollouts),
            bus.clone(),
            ending.clone(),
        );
        background.extend([recording, tokio::spawn(deciding)]);
        let nudged = Arc::new(Notify::new());
        let pipelines = Pipelines {
            store: Arc::clone(&store),
            artifacts: artifacts.clone(),
            bus: bus.clone(),
            config: config.clone(),
            nudged: Arc::clone(&nudged),
        };
        background.push(tokio::spawn(pipelines.follow(ending.clone())));
        let desk = Desk {
            store: Arc::clone(&store),
            controls: Arc::clone(&controls),
            routes: Arc::clone(&routes),
            bus: bus.clone(),
        };
        let operator = Operator {
            swapper: Arc::clone(&swapper),
            store: Arc::clone(&store),
            controls,
            recorder,
            holder: bus.holder().clone(),
        };
        let api = Api {
            store: Arc::clone(&store),
            artifacts,
            bus: bus.clone(),
            facts: Arc::new(Facts::new(config, swapper, Arc::clone(&routes))),
            plugins: Arc::new(operator),
            routes: Arc::new(desk),
            pipelines: nudged,
            thresholds: config.gate.thresholds,
            window_min: config.gate.window_min,
            auth,
            hosts: HostNames::new(config.listen.bind, config.listen.names.clone()),
        };
        let serving = tokio::spawn(serve(listener, api::router(api), ending.clone()));
        if let Some(owner) = &owner {
            owner.publish(&api_url)?;
        }
        let beating = Beating {
            store: Arc::clone(&store),
            catalog,
            holder: bus.holder().clone(),
            name: config.holder_id.clone(),
            stage: config.stage,
            api: api_url.clone(),
        };
        // Whoever reads below that it serves finds it on the bus.
        beating.show().await;
        let beating = tokio::spawn(beating.follow(ending.clone()));
        background.extend([serving, beating]);
        tracing::info!(
            api = %api_url,
            bus = %config.bus,
            stage = %config.stage,
            holder = %bus.holder(),
            "serving {api_url}"
        );
        Ok(Self {
            store,
            bus,
            routes,
            api_url,
            ending,
            background,
            _owner: owner,
        })
    }

    pub const fn bus(&self) -> &BusHandle {
        &self.bus
    }

    /// The held routes that tasks wait on.
    ///
    /// # Errors
    /// As the store's reads.
    pub async fn held_tasks(&self) -> Result<Vec<HeldTasks>, StoreError> {
        holds::held_tasks(&self.routes, &*self.store).await
    }

    /// The bus's database, for reading.
    pub fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store)
    }

    pub fn holder(&self) -> &HolderId {
        self.bus.holder()
    }

    /// Where the API listens, as `http://address:port`.
    pub fn api_url(&self) -> &str {
        &self.api_url
    }

    /// Drains, then closes everything. The API answers until the drain is over.
    pub async fn stop(self) {
        self.bus.drain();
        self.bus.finished().await;
        self.ending.cancel();
        for task in self.background {
            if let Err(error) = task.await {
                tracing::error!(%error, "a part of the host broke");
            }
        }
        // Nothing hangs on either: a host that is gone is soon seen to be, and
        // what is durable has been committed.
        let ending = async {
            if let Err(error) = self.store.leave(self.bus.holder()).await {
                tracing::debug!(%error, "cannot take this host off the bus's list");
            }
            if let Err(error) = self.store.close().await {
                tracing::warn!(%error, "the database did not close cleanly");
            }
        };
        if tokio::time::timeout(GOODBYE, ending).await.is_err() {
            tracing::warn!("the database does not answer; the host ends without a goodbye");
        }
    }
}

/// What follows the plugins while the host runs.
struct Following {
    swapper: Arc<Swapper>,
    routes: Arc<LiveRoutes>,
    controls: Arc<LiveControls>,
    store: Arc<dyn Store>,
    recorder: Recorder,
    bus: BusHandle,
}

impl Following {
    /// Records what the start found, and follows what comes.
    fn start(
        self,
        watcher: Option<Watcher>,
        found: Vec<SwapEvent>,
        ending: &CancellationToken,
    ) -> Vec<JoinHandle<()>> {
        let Self {
            swapper,
            routes,
            controls,
            store,
            recorder,
            bus,
        } = self;
        let holder = bus.holder().clone();
        let record = move |event: SwapEvent| recorder.record(event.into_event(&holder));
        found.into_iter().for_each(&record);
        let mut background = Vec::new();
        background.push(tokio::spawn({
            let (swapper, ending) = (Arc::clone(&swapper), ending.clone());
            async move { swapper.remember(ending).await }
        }));
        let decided = serving::follow(
            Arc::clone(&swapper),
            controls,
            store,
            record.clone(),
            ending.clone(),
        );
        background.push(tokio::spawn(decided));
        if let Some(watcher) = watcher {
            let (swapper, ending) = (Arc::clone(&swapper), ending.clone());
            background.push(tokio::spawn(async move {
                swapper.follow(watcher, record, ending).await;
            }));
        }
        let (changes, ending) = (swapper.catalog().changes(), ending.clone());
        background.push(tokio::spawn(async move {
            // A route that is new may have tasks waiting.
            routes.follow(changes, || bus.wake(), ending).await;
        }));
        background
    }
}

fn own(bus: &BusUrl) -> Result<Option<OwnerLock>, HostError> {
    match bus {
        BusUrl::Sqlite(path) => Ok(Some(OwnerLock::acquire(path)?)),
        BusUrl::Postgres(_) => Ok(None),
    }
}

/// The embedded bus is brought up to date at once: this process owns it. A
/// shared one is migrated by command.
async fn open_store(bus: &BusUrl) -> Result<Arc<dyn Store>, StoreError> {
    let store = store::open(bus, OpenMode::Create).await?;
    match bus {
        BusUrl::Sqlite(_) => {
            store.migrate(false).await?;
        }
        BusUrl::Postgres(_) => store.check_schema().await?,
    }
    Ok(store)
}

fn auth(config: &Config) -> Result<Auth, HostError> {
    let listen = &config.listen;
    let mut lines = String::new();
    if let Some(path) = &listen.token_file {
        lines = std::fs::read_to_string(path).map_err(|source| HostError::TokenFile {
            path: path.clone(),
            source,
        })?;
    }
    if let Some(token) = &listen.token {
        lines.push('\n');
        lines.push_str(token.expose());
    }
    let tokens = Tokens::parse(&lines)?;
    let writes_need_token = config.stage != Stage::Development;
    Ok(Auth::for_bind(listen.bind, writes_need_token, tokens)?)
}

fn asked_address(config: &Config) -> SocketAddr {
    SocketAddr::new(config.listen.bind, config.listen.port)
}

async fn listen(config: &Config) -> Result<TcpListener, HostError> {
    let address = asked_address(config);
    let listener = TcpListener::bind(address).await;
    listener.map_err(|source| HostError::Listen { address, source })
}

/// Where a host that listens there is reached: over loopback, where the address
/// says "all of them".
pub fn url_at(address: SocketAddr) -> String {
    let reached = match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => {
            SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.into(), v4.port())
        }
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => {
            SocketAddr::new(std::net::Ipv6Addr::LOCALHOST.into(), v6.port())
        }
        other => other,
    };
    format!("http://{reached}")
}

fn artifacts(
    config: &Config,
    api_url: &str,
    store: &Arc<dyn Store>,
) -> Result<PublishedArtifacts, InvalidBucket> {
    let here = format!("{api_url}/artifacts");
    let directory = || Contents::Directory(Directory::new(config.state_dir.join("artifacts")));
    let (contents, base) = match &config.artifacts_base {
        None => (directory(), here),
        Some(ArtifactsBase::Url(url)) => (directory(), url.clone()),
        Some(ArtifactsBase::Bucket { url, signed_links }) => {
            let contents = Contents::Bucket {
                bucket: Bucket::open(url)?,
                signed_links: *signed_links,
            };
            (contents, here)
        }
    };
    Ok(PublishedArtifacts::new(contents, &base, Arc::clone(store)))
}

fn sandbox(catalog: Arc<Catalog>, guests: &Handle, artifacts: &PublishedArtifacts) -> Sandbox {
    let runtimes = Runtimes {
        guest: guests.clone(),
        io: Handle::current(),
    };
    Sandbox::new(catalog, runtimes, Arc::new(artifacts.clone()))
}

fn bus_settings(config: &Config, until_idle: bool) -> BusSettings {
    let days = |days: u32| Duration::from_secs(u64::from(days) * 24 * 3600);
    BusSettings {
        stage: config.stage,
        concurrency: config.concurrency,
        lease: config.lease,
        poll: config.poll,
        retry: config.retry,
        drain: config.drain,
        stop_grace: STOP_GRACE,
        retention: Retention {
            tasks: config.retention_days.map(days),
            events: config.audit_retention_days.map(days),
            batch: 500,
        },
        until_idle,
    }
}

async fn serve(listener: TcpListener, router: api::Router, ending: CancellationToken) {
    if let Err(error) = api::serve(listener, router, ending).await {
        tracing::error!(%error, "the API ended");
    }
}

/// What shows this host on the bus.
struct Beating {
    store: Arc<dyn Store>,
    catalog: Arc<Catalog>,
    holder: HolderId,
    name: String,
    stage: Stage,
    api: String,
}

impl Beating {
    async fn show(&self) {
        let digests: Vec<_> = self.catalog.ready().into_iter().collect();
        let host = HostBeat {
            holder: &self.holder,
            name: &self.name,
            stage: self.stage,
            version: env!("CARGO_PKG_VERSION"),
            api: Some(&self.api),
            digests: &digests,
        };
        if let Err(error) = self.store.beat(&host).await {
            tracing::debug!(%error, "cannot show this host on the bus");
        }
    }

    /// Shows it until it ends, and at once when it has other plugins.
    async fn follow(self, ending: CancellationToken) {
        let mut plugins = self.catalog.changes();
        loop {
            plugins.mark_unchanged();
            self.show().await;
            tokio::select! {
                () = tokio::time::sleep(BEAT) => {}
                // One change rarely comes alone.
                _ = plugins.changed() => tokio::time::sleep(GATHER).await,
                () = ending.cancelled() => return,
            }
        }
    }
}
