//! Which files events named, and when each may be looked at.
//!
//! Pure: instants come in, paths go out.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{Event, EventKind};
use tokio::time::Instant;

use super::is_plugin_file;

/// More names than this are not remembered one by one.
const MAX_TOUCHED: usize = 4_096;
/// What part of the quiet a file needs that was whole before it had its name:
/// whoever renames a file into place has written it already.
const OF_QUIET_WHEN_PLACED: u32 = 4;

/// What happened since it was looked at last.
#[derive(Debug, Default)]
pub(super) struct Pending {
    touched: HashMap<PathBuf, Touched>,
    /// Anything may have happened.
    everything: bool,
}

#[derive(Debug, Clone, Copy)]
enum Touched {
    /// To be looked at without delay: nobody said that it changed.
    Now,
    /// Left alone since.
    Since(Instant),
    /// Renamed into place, and left alone since.
    Placed(Instant),
    /// Written to, and not closed yet as far as is known.
    Writing(Instant),
}

impl Pending {
    /// Takes note of what the system says of `directory` or of the way to it.
    /// `true` if it matters.
    pub(super) fn hear(&mut self, event: &Event, directory: &Path, now: Instant) -> bool {
        if event.need_rescan() {
            self.everything = true;
            return true;
        }
        // Reading makes events, too.
        let matters = match event.kind {
            EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
            _ => true,
        };
        if !matters {
            return false;
        }
        let mut heard = false;
        for (n, path) in event.paths.iter().enumerate() {
            if directory.starts_with(path) {
                self.everything = true;
                heard = true;
            } else if path.parent() == Some(directory) && is_plugin_file(path) {
                match event.kind {
                    // The second path of two is the new one.
                    EventKind::Modify(ModifyKind::Name(RenameMode::Both)) if n > 0 => {
                        self.put(path.clone(), Touched::Placed(now));
                    }
                    kind => self.hear_of_file(path, &kind, now),
                }
                heard = true;
            }
        }
        heard
    }

    fn hear_of_file(&mut self, path: &Path, kind: &EventKind, now: Instant) {
        let before = self.touched.get(path).copied();
        let writing = matches!(before, Some(Touched::Writing(_)));
        let placed = matches!(before, Some(Touched::Placed(_)));
        let touched = match kind {
            EventKind::Modify(ModifyKind::Data(_)) => Touched::Writing(now),
            EventKind::Modify(ModifyKind::Metadata(_)) if writing => Touched::Writing(now),
            EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Touched::Placed(now),
            // Its writer held it open while renaming it, and wrote no more.
            EventKind::Access(AccessKind::Close(AccessMode::Write)) if placed => {
                Touched::Placed(now)
            }
            // Closed, moved away, removed, made: whoever wrote before has ended, or
            // wrote something that lies elsewhere by now.
            _ => Touched::Since(now),
        };
        self.put(path.to_owned(), touched);
    }

    fn put(&mut self, path: PathBuf, touched: Touched) {
        if self.touched.len() >= MAX_TOUCHED && !self.touched.contains_key(&path) {
            self.touched.clear();
            self.everything = true;
            return;
        }
        self.touched.insert(path, touched);
    }

    /// The file was not steady when it was looked at.
    pub(super) fn touch(&mut self, path: PathBuf, now: Instant) {
        if !self.touched.contains_key(&path) {
            self.put(path, Touched::Since(now));
        }
    }

    /// The file may differ, though no event said so.
    pub(super) fn look_now(&mut self, path: PathBuf) {
        self.touched.entry(path).or_insert(Touched::Now);
    }

    pub(super) fn is_touched(&self, path: &Path) -> bool {
        self.touched.contains_key(path)
    }

    pub(super) const fn look_at_everything(&mut self) {
        self.everything = true;
    }

    pub(super) const fn take_everything(&mut self) -> bool {
        std::mem::replace(&mut self.everything, false)
    }

    /// The files that were left alone for `quiet`. One that is being written to
    /// waits for its end, but at most for `patience`: the end may go unseen.
    pub(super) fn take_due(
        &mut self,
        now: Instant,
        quiet: Duration,
        patience: Duration,
    ) -> Vec<PathBuf> {
        let is_due = |touched: &Touched| touched.due(quiet, patience).is_none_or(|at| at <= now);
        let mut due: Vec<PathBuf> = self
            .touched
            .iter()
            .filter(|(_, touched)| is_due(touched))
            .map(|(path, _)| path.clone())
            .collect();
        due.sort();
        for path in &due {
            self.touched.remove(path);
        }
        due
    }

    /// When the next file is due.
    pub(super) fn next_due(&self, quiet: Duration, patience: Duration) -> Option<Instant> {
        if self.everything {
            return Some(Instant::now());
        }
        let due = |touched: &Touched| touched.due(quiet, patience).unwrap_or_else(Instant::now);
        self.touched.values().map(due).min()
    }
}

impl Touched {
    /// `None` is at once.
    fn due(self, quiet: Duration, patience: Duration) -> Option<Instant> {
        match self {
            Self::Now => None,
            Self::Since(at) => Some(at + quiet),
            Self::Placed(at) => Some(at + quiet / OF_QUIET_WHEN_PLACED),
            Self::Writing(at) => Some(at + patience.max(quiet)),
        }
    }
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, DataChange, Flag, MetadataKind, RemoveKind, RenameMode};

    use super::*;

    const QUIET: Duration = Duration::from_millis(200);
    const PATIENCE: Duration = Duration::from_secs(30);
    const CREATED: EventKind = EventKind::Create(CreateKind::File);
    const WRITTEN: EventKind = EventKind::Modify(ModifyKind::Data(DataChange::Any));
    const CLOSED: EventKind = EventKind::Access(AccessKind::Close(AccessMode::Write));
    const MOVED_IN: EventKind = EventKind::Modify(ModifyKind::Name(RenameMode::To));
    const MOVED: EventKind = EventKind::Modify(ModifyKind::Name(RenameMode::Both));
    const REMOVED: EventKind = EventKind::Remove(RemoveKind::File);
    const CHMOD: EventKind = EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any));
    const OPENED: EventKind = EventKind::Access(AccessKind::Open(AccessMode::Any));

    struct Bench {
        pending: Pending,
        start: Instant,
    }

    impl Bench {
        fn new() -> Self {
            Self {
                pending: Pending::default(),
                start: Instant::now(),
            }
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }

        fn hear(&mut self, ms: u64, kind: EventKind, path: &str) -> bool {
            let event = Event::new(kind).add_path(path.into());
            let now = self.at(ms);
            self.pending.hear(&event, Path::new("/a/plugins"), now)
        }

        fn due(&mut self, ms: u64) -> usize {
            let now = self.at(ms);
            self.pending.take_due(now, QUIET, PATIENCE).len()
        }
    }

    #[test]
    fn a_file_is_due_once_it_was_left_alone() {
        let mut bench = Bench::new();
        let file = "/a/plugins/mock.wasm";
        assert!(bench.hear(0, CLOSED, file));
        assert_eq!(bench.due(199), 0);
        assert!(bench.hear(150, CHMOD, file));
        assert_eq!(bench.due(349), 0);
        assert_eq!(bench.due(350), 1);
        assert_eq!(bench.due(10_000), 0);
    }

    #[test]
    fn a_file_that_was_renamed_into_place_is_due_sooner() {
        let mut bench = Bench::new();
        let (file, draft) = ("/a/plugins/mock.wasm", "/a/plugins/other.wasm");
        assert!(bench.hear(0, MOVED_IN, file));
        assert_eq!(bench.due(49), 0);
        assert!(bench.hear(49, CLOSED, file), "it was still open");
        assert_eq!(bench.due(98), 0);
        assert_eq!(bench.due(99), 1);

        // The name that it had is left alone for as long as any.
        let event = Event::new(MOVED).add_path(draft.into());
        let event = event.add_path(file.into());
        let now = bench.at(100);
        assert!(bench.pending.hear(&event, Path::new("/a/plugins"), now));
        assert_eq!(bench.due(150), 1);
        assert_eq!(bench.due(300), 1);

        // Who renames first and writes then is waited for all the same.
        assert!(bench.hear(400, MOVED_IN, file));
        assert!(bench.hear(410, WRITTEN, file));
        assert_eq!(bench.due(10_000), 0);
        assert!(bench.hear(10_000, CLOSED, file));
        assert_eq!(bench.due(10_199), 0);
        assert_eq!(bench.due(10_200), 1);
    }

    #[test]
    fn a_file_that_is_written_to_waits_for_its_end() {
        let mut bench = Bench::new();
        let file = "/a/plugins/mock.wasm";
        for (ms, kind) in [(0, CREATED), (5, WRITTEN), (10, CHMOD)] {
            assert!(bench.hear(ms, kind, file));
        }
        assert_eq!(bench.due(20_000), 0, "the writer is slow");
        assert!(bench.hear(25_000, CLOSED, file));
        assert_eq!(bench.due(25_199), 0);
        assert_eq!(bench.due(25_200), 1);

        assert!(bench.hear(30_000, WRITTEN, file));
        assert_eq!(bench.due(59_999), 0);
        assert_eq!(bench.due(60_000), 1, "its end was not seen");

        assert!(bench.hear(70_000, WRITTEN, file));
        assert!(bench.hear(70_001, REMOVED, file));
        assert_eq!(bench.due(70_201), 1);
    }

    #[test]
    fn only_plugins_of_the_directory_matter() {
        let mut bench = Bench::new();
        for path in [
            "/a/plugins/mock.wasm~",
            "/a/plugins/.mock.wasm",
            "/a/plugins/.mock.wasm.swp",
            "/a/plugins/mock.wasm.tmp",
            "/a/plugins/4913",
            "/a/plugins/sub/mock.wasm",
            "/a/other/mock.wasm",
            "/a/mock.wasm",
        ] {
            assert!(!bench.hear(0, CLOSED, path), "{path}");
        }
        assert!(!bench.hear(0, OPENED, "/a/plugins/mock.wasm"));
        assert_eq!(bench.due(10_000), 0);
        assert!(!bench.pending.take_everything());
    }

    #[test]
    fn the_way_to_the_directory_and_lost_events_concern_everything() {
        for path in ["/a/plugins", "/a", "/"] {
            let mut bench = Bench::new();
            assert!(bench.hear(0, REMOVED, path), "{path}");
            assert!(bench.pending.take_everything());
            assert!(!bench.pending.take_everything());
        }
        let mut bench = Bench::new();
        let lost = Event::new(EventKind::Other).set_flag(Flag::Rescan);
        assert!(bench.pending.hear(&lost, Path::new("/a"), bench.start));
        assert!(bench.pending.take_everything());
    }

    #[test]
    fn names_without_number_are_not_remembered() {
        let mut bench = Bench::new();
        for n in 0..=MAX_TOUCHED {
            assert!(bench.hear(0, CREATED, &format!("/a/plugins/p{n}.wasm")));
        }
        assert_eq!(bench.due(10_000), 0);
        assert!(bench.pending.take_everything());
    }
}
