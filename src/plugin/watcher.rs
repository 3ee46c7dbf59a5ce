//! Watches a directory of plugins and tells what lies there, file by file.
//!
//! Knows paths, bytes and digests; of components it knows nothing. It is asked
//! for the next change and keeps none in store: whoever is slow gets what lies
//! there by then, and no more than one file's bytes are held.
//!
//! **Invariants.** The directory is watched, not its files, so that a rename
//! into place is seen. What is told was quiet for a while, is not held open by
//! a writer that was seen writing, and was read twice with the same result.
//! Content counts, not time stamps: a file that was touched or written again as
//! it was is no change. Events are hints; everything is looked at again from
//! time to time, and the directory may come, go and be replaced meanwhile.

mod look;
mod pending;
mod survey;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::ids::Digest;
use look::{Found, Identity, Look};
use pending::Pending;
use survey::{Listing, Survey};

/// Which file names are plugins.
const EXTENSION: &str = "wasm";
/// What follows that in the names of their signatures.
const SIGNATURE: &str = "minisig";
/// How often everything is looked at where the system reports no events.
const WITHOUT_EVENTS: Duration = Duration::from_secs(2);

/// What is watched, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchSettings {
    pub directory: PathBuf,
    /// How long a file must be left alone before it is read.
    pub quiet: Duration,
    /// How often everything is looked at, whatever events said.
    pub rescan: Duration,
    /// Larger files are not read.
    pub max_bytes: u64,
}

/// Something is no longer as it was told before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    File {
        path: PathBuf,
        content: Content,
    },
    /// The directory itself; its files are told one by one.
    Directory(DirectoryState),
}

/// What lies under the name of a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    Bytes {
        digest: Digest,
        bytes: Bytes,
    },
    /// The size, in bytes.
    TooLarge(u64),
    /// No file that can be read, and why.
    Unusable(String),
    Gone,
}

/// How the directory is seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DirectoryState {
    Watched,
    /// The system reports no events, and why; it is looked at every two seconds.
    Polled(String),
    /// It does not exist. All that was in it is gone.
    Missing,
    /// It is there and cannot be read. Nothing is known to have changed.
    Unreadable(String),
}

/// A file as it was told last.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    Digest(Digest),
    TooLarge(u64),
    Unusable(String),
}

/// What is known of one file.
struct Known {
    told: Told,
    /// Set where the file cannot have changed without another identity.
    identity: Option<Identity>,
}

/// What the thread that hears of events leaves for the watcher.
#[derive(Default)]
struct Signals {
    // Never held over an await.
    pending: Mutex<Pending>,
    arrived: Notify,
}

/// A watched directory.
pub struct Watcher {
    settings: WatchSettings,
    signals: Arc<Signals>,
    armed: Option<survey::Armed>,
    state: Option<DirectoryState>,
    known: HashMap<PathBuf, Known>,
    /// Looked at once, and to be looked at again.
    candidates: VecDeque<(PathBuf, Look)>,
    rescan_at: Instant,
}

impl Watcher {
    /// A watcher that has not looked yet: the first look tells everything.
    ///
    /// # Errors
    /// When a relative directory has nothing to be relative to.
    pub fn new(mut settings: WatchSettings) -> io::Result<Self> {
        settings.directory = std::path::absolute(&settings.directory)?;
        Ok(Self {
            settings,
            signals: Arc::default(),
            armed: None,
            state: None,
            known: HashMap::new(),
            candidates: VecDeque::new(),
            rescan_at: Instant::now(),
        })
    }

    pub fn directory(&self) -> &Path {
        &self.settings.directory
    }

    /// Waits for the next change.
    pub async fn next(&mut self) -> Change {
        loop {
            if let Some(change) = self.ready().await {
                return change;
            }
            let at = self.wake_at();
            tokio::select! {
                () = self.signals.arrived.notified() => {}
                () = tokio::time::sleep_until(at) => {}
            }
        }
    }

    /// The next change among what can be told now; `None` once all is told.
    pub async fn ready(&mut self) -> Option<Change> {
        loop {
            if let Some((path, first)) = self.candidates.pop_front() {
                match self.confirm(path, &first).await {
                    Some(change) => return Some(change),
                    None => continue,
                }
            }
            let asked = self.signals.pending.lock().take_everything();
            if (asked || self.rescan_at <= Instant::now())
                && let Some(change) = self.rescan().await
            {
                return Some(change);
            }
            if !self.look_at_due().await {
                return None;
            }
        }
    }

    fn wake_at(&self) -> Instant {
        let pending = self.signals.pending.lock();
        let due = pending.next_due(self.settings.quiet, self.settings.rescan);
        due.map_or(self.rescan_at, |due| due.min(self.rescan_at))
    }

    /// Sees to it that the directory is watched, and marks what may differ.
    async fn rescan(&mut self) -> Option<Change> {
        let directory = self.settings.directory.clone();
        let (armed, signals) = (self.armed.take(), Arc::clone(&self.signals));
        let surveyed =
            tokio::task::spawn_blocking(move || Survey::take(armed, &directory, &signals));
        let survey = surveyed.await.unwrap_or_else(|cause| Survey {
            armed: None,
            state: DirectoryState::Unreadable(cause.to_string()),
            listing: Listing::Unknown,
        });
        self.armed = survey.armed;
        let every = match survey.state {
            DirectoryState::Polled(_) => self.settings.rescan.min(WITHOUT_EVENTS),
            _ => self.settings.rescan,
        };
        self.rescan_at = Instant::now() + every;
        self.mark(survey.listing);
        let changed = self.state.as_ref() != Some(&survey.state);
        changed.then(|| {
            self.state = Some(survey.state.clone());
            Change::Directory(survey.state)
        })
    }

    fn mark(&self, listing: Listing) {
        let Listing::Files(files) = listing else {
            return;
        };
        let mut pending = self.signals.pending.lock();
        for path in self.known.keys() {
            if !files.contains_key(path) {
                pending.look_now(path.clone());
            }
        }
        for (path, identity) in files {
            let known = self.known.get(&path).and_then(|known| known.identity);
            if identity.is_none() || known != identity {
                pending.look_now(path);
            }
        }
    }

    /// Looks at what has been quiet for long enough; `false` if there is none.
    async fn look_at_due(&mut self) -> bool {
        let (quiet, patience) = (self.settings.quiet, self.settings.rescan);
        let due = self
            .signals
            .pending
            .lock()
            .take_due(Instant::now(), quiet, patience);
        if due.is_empty() {
            return false;
        }
        for path in due {
            let look = self.look(&path).await;
            if !self.is_told(&path, &look) {
                // Only what was found out is kept; the bytes are read again.
                self.candidates.push_back((path, look.without_bytes()));
            }
        }
        if !self.candidates.is_empty() {
            tokio::time::sleep(quiet / 4).await;
        }
        true
    }

    /// Looks a second time, and tells what both looks agree about.
    async fn confirm(&mut self, path: PathBuf, first: &Look) -> Option<Change> {
        let second = self.look(&path).await;
        let steady = first.agrees_with(&second);
        let mut pending = self.signals.pending.lock();
        if !steady || pending.is_touched(&path) {
            pending.touch(path, Instant::now());
            return None;
        }
        drop(pending);
        if self.is_told(&path, &second) {
            return None;
        }
        let (told, content) = match second.found {
            Found::Gone => {
                self.known.remove(&path);
                return Some(Change::File {
                    path,
                    content: Content::Gone,
                });
            }
            // Two looks that saw the file change do not agree.
            Found::Changing => return None,
            Found::Bytes { digest, bytes } => {
                (Told::Digest(digest), Content::Bytes { digest, bytes })
            }
            Found::TooLarge(bytes) => (Told::TooLarge(bytes), Content::TooLarge(bytes)),
            Found::Unusable(why) => (Told::Unusable(why.clone()), Content::Unusable(why)),
        };
        let identity = second.identity;
        self.known.insert(path.clone(), Known { told, identity });
        Some(Change::File { path, content })
    }

    /// Whether this is what was told before. Remembers how to recognise it.
    fn is_told(&mut self, path: &Path, look: &Look) -> bool {
        let Some(known) = self.known.get_mut(path) else {
            return matches!(look.found, Found::Gone);
        };
        let same = match (&known.told, &look.found) {
            (Told::Digest(told), Found::Bytes { digest, .. }) => told == digest,
            (Told::TooLarge(told), Found::TooLarge(bytes)) => told == bytes,
            (Told::Unusable(told), Found::Unusable(why)) => told == why,
            _ => false,
        };
        if same {
            known.identity = look.identity;
        }
        same
    }

    async fn look(&self, path: &Path) -> Look {
        let (path, max_bytes) = (path.to_owned(), self.settings.max_bytes);
        let looked = tokio::task::spawn_blocking(move || Look::at(&path, max_bytes));
        looked.await.unwrap_or_else(|cause| Look {
            identity: None,
            found: Found::Unusable(cause.to_string()),
        })
    }
}

/// Whether a path is a plugin's or its signature's: other names, hidden files and
/// what editors leave behind are nobody's business.
fn is_plugin_file(path: &Path) -> bool {
    let visible = |name: &std::ffi::OsStr| !name.as_encoded_bytes().starts_with(b".");
    let is_component = path.extension().is_some_and(|e| e == EXTENSION);
    (is_component || signed_by(path).is_some()) && path.file_name().is_some_and(visible)
}

/// The component whose signature a path is, `NAME.wasm.minisig`.
pub fn signed_by(path: &Path) -> Option<PathBuf> {
    let is_signature = path.extension().is_some_and(|e| e == SIGNATURE);
    let component = path.with_extension("");
    let is_component = component.extension().is_some_and(|e| e == EXTENSION);
    (is_signature && is_component).then_some(component)
}
