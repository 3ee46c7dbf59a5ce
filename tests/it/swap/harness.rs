//! A watched directory, plugins to put into it, and a swapper that follows it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cogo_host::config::{Config, Layers};
use cogo_host::event::NewEvent;
use cogo_host::host::{SwapEvent, Swapper};
use cogo_host::ids::{Digest, HolderId, PluginName};
use cogo_host::plugin::catalog::{Catalog, Listed};
use cogo_host::plugin::watcher::{Change, Content, DirectoryState, WatchSettings, Watcher};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::guest::{Guest, Returns};
use crate::support::process::PATIENCE;

/// Long enough for a writer of these tests, short enough for many of them.
pub const QUIET: Duration = Duration::from_millis(60);
/// So long that nothing is found but by events.
pub const NEVER: Duration = Duration::from_secs(24 * 3600);

pub const NAME: &str = "guest";

/// A version of the plugin `guest`, whose results say which one it is.
pub fn version(n: u32) -> Guest {
    named(NAME, &format!("1.0.{n}"))
}

pub fn named(name: &str, version: &str) -> Guest {
    Guest {
        name: name.to_owned(),
        version: version.to_owned(),
        ..Guest::returning(Returns::Sandbox {
            exit_code: 0,
            stdout: version.to_owned(),
        })
    }
}

pub fn name(text: &str) -> PluginName {
    text.parse().unwrap()
}

/// What the watcher tells, without whatever the directory's own state is.
pub struct Watched {
    pub watcher: Watcher,
    pub directory: PathBuf,
    _temporary: tempfile::TempDir,
}

impl Watched {
    /// Watches `plugins/` below a new directory; `prepare` fills it before.
    pub fn new(rescan: Duration, prepare: impl FnOnce(&Path)) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path().join("plugins");
        prepare(&directory);
        let watcher = Watcher::new(WatchSettings {
            directory: directory.clone(),
            quiet: QUIET,
            rescan,
            max_bytes: 1 << 20,
        });
        Self {
            watcher: watcher.unwrap(),
            directory,
            _temporary: temporary,
        }
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub async fn change(&mut self) -> Change {
        let next = tokio::time::timeout(PATIENCE, self.watcher.next()).await;
        next.expect("nothing changed")
    }

    pub async fn file(&mut self) -> (String, Content) {
        loop {
            if let Change::File { path, content } = self.change().await {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                return (name, content);
            }
        }
    }

    pub async fn becomes(&mut self, expected: DirectoryState) {
        loop {
            if let Change::Directory(state) = self.change().await
                && state == expected
            {
                return;
            }
        }
    }

    /// Nothing is told during several quiet times.
    pub async fn stays(&mut self) {
        let told = tokio::time::timeout(QUIET * 5, self.watcher.next()).await;
        assert!(told.is_err(), "{told:?}");
    }

    /// All that is told until a file has this content, or is gone.
    pub async fn until(&mut self, file: &str, wanted: Option<&[u8]>) -> Vec<Content> {
        let mut told = Vec::new();
        loop {
            let (name, content) = self.file().await;
            assert_eq!(name, file);
            let found = match (&content, wanted) {
                (Content::Bytes { bytes, .. }, Some(wanted)) => bytes == wanted,
                (Content::Gone, None) => true,
                _ => false,
            };
            told.push(content);
            if found {
                return told;
            }
        }
    }
}

/// Swapped plugins, without a bus.
pub struct Following {
    pub swapper: Arc<Swapper>,
    pub directory: PathBuf,
    events: mpsc::UnboundedReceiver<NewEvent>,
    ending: CancellationToken,
    config: Config,
    temporary: Arc<tempfile::TempDir>,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.ending.cancel();
    }
}

/// A configuration with a state directory of its own.
pub fn config(root: &Path, environment: &[(&str, &str)]) -> Config {
    let quiet = QUIET.as_millis().to_string();
    let directory = root.join("plugins").display().to_string();
    let state = root.join("state").display().to_string();
    let own = [
        ("COGO_PLUGINS_DIR", directory.as_str()),
        ("COGO_PLUGINS_QUIET_MS", quiet.as_str()),
        ("COGO_STATE_DIR", state.as_str()),
    ];
    let all = own.iter().chain(environment);
    let all = all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::from_layers(&Layers::new(all)).unwrap()
}

impl Following {
    pub async fn start(environment: &[(&str, &str)]) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        std::fs::create_dir(temporary.path().join("plugins")).unwrap();
        let config = config(temporary.path(), environment);
        Self::with(config, temporary).await
    }

    pub async fn with(config: Config, temporary: impl Into<Arc<tempfile::TempDir>>) -> Self {
        let temporary = temporary.into();
        let loader = crate::sandbox::harness::loader();
        let started = Swapper::start(&config, loader).await.unwrap();
        let holder = HolderId::generate("test-host");
        let (sender, events) = mpsc::unbounded_channel();
        let record = move |event: SwapEvent| {
            // The test may be over.
            let _ = sender.send(event.into_event(&holder));
        };
        started.events.into_iter().for_each(&record);
        let swapper = Arc::new(started.swapper);
        let ending = CancellationToken::new();
        tokio::spawn({
            let (swapper, ending) = (Arc::clone(&swapper), ending.clone());
            async move { swapper.remember(ending).await }
        });
        if let Some(watcher) = started.watcher {
            let (swapper, ending) = (Arc::clone(&swapper), ending.clone());
            tokio::spawn(async move { swapper.follow(watcher, record, ending).await });
        }
        Self {
            swapper,
            directory: temporary.path().join("plugins"),
            events,
            ending,
            config,
            temporary,
        }
    }

    /// The same installation under another host.
    pub async fn restart(self) -> Self {
        let (config, temporary) = (self.config.clone(), Arc::clone(&self.temporary));
        drop(self);
        Self::with(config, temporary).await
    }

    pub fn at(&self, file: &str) -> PathBuf {
        self.directory.join(file)
    }

    pub fn catalog(&self) -> &Arc<Catalog> {
        self.swapper.catalog()
    }

    /// Puts a file into place by renaming.
    pub fn put(&self, file: &str, bytes: &[u8]) -> Digest {
        let draft = self.at("draft");
        std::fs::write(&draft, bytes).unwrap();
        std::fs::rename(draft, self.at(file)).unwrap();
        Digest::of(bytes)
    }

    /// The next event that is recorded.
    pub async fn event(&mut self) -> NewEvent {
        let next = tokio::time::timeout(PATIENCE, self.events.recv()).await;
        next.expect("no event came").expect("the swapper ended")
    }

    pub async fn expect(&mut self, event_type: &str) -> NewEvent {
        let event = self.event().await;
        assert_eq!(event.event_type, event_type, "{event:?}");
        event
    }

    /// No event is recorded during several quiet times.
    pub async fn stays(&mut self) {
        let told = tokio::time::timeout(QUIET * 5, self.events.recv()).await;
        assert!(told.is_err(), "{told:?}");
    }

    pub fn serving(&self, plugin: &str) -> Option<Digest> {
        let plugin = self.catalog().get(&name(plugin))?;
        Some(plugin.digest())
    }

    pub fn listed(&self, plugin: &str) -> Listed {
        let listed = self.catalog().list().into_iter();
        let mut found = listed.filter(|listed| listed.name.as_str() == plugin);
        found.next().unwrap()
    }
}
