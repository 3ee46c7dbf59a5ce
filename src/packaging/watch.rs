//! Notices that the sources of a plugin are no longer what they were.
//!
//! It looks instead of listening: no editor's way of saving a file, and no file
//! system that reports nothing, can hide an edit from it. Sizes and times are
//! looked at, not contents; a plugin has few files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::project::Project;
use super::source;

/// Where golden tasks lie: no part of a component, but of what is tried.
const GOLDEN: &str = "tasks";

/// A plugin's sources, as they were seen last.
#[derive(Debug)]
pub struct Watch {
    directory: PathBuf,
    seen: Option<Seen>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Files(BTreeMap<PathBuf, Option<(u64, SystemTime)>>),
    /// Not readable as a plugin, such as a manifest half written, and why.
    Trouble(String),
}

impl Watch {
    /// Has seen nothing yet.
    pub fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_path_buf(),
            seen: None,
        }
    }

    /// Looks, and says whether something is not as it was at the last look.
    pub fn has_changed(&mut self) -> bool {
        let now = Seen::at(&self.directory);
        let changed = self.seen.as_ref() != Some(&now);
        self.seen = Some(now);
        changed
    }
}

impl Seen {
    fn at(directory: &Path) -> Self {
        let project = match Project::read(directory) {
            Ok(project) => project,
            Err(error) => return Self::Trouble(error.to_string()),
        };
        let mut files = match source::list(&project.covered()) {
            Ok(files) => files,
            Err(error) => return Self::Trouble(error.to_string()),
        };
        let golden = std::fs::read_dir(directory.join(GOLDEN));
        let golden = golden.into_iter().flatten().flatten();
        files.extend(golden.map(|file| file.path()));
        Self::Files(files.into_iter().map(identified).collect())
    }
}

fn identified(path: PathBuf) -> (PathBuf, Option<(u64, SystemTime)>) {
    let found = std::fs::metadata(&path).ok();
    let identity = found.and_then(|found| Some((found.len(), found.modified().ok()?)));
    (path, identity)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn every_way_of_saving_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(
            at("plugin.toml"),
            "[plugin]\nname = \"a\"\nversion = \"1.0.0\"\n",
        )
        .unwrap();
        fs::write(at("plugin.wat"), "(module)").unwrap();
        let mut watch = Watch::new(directory.path());
        assert!(watch.has_changed(), "the first look");
        assert!(!watch.has_changed());

        fs::write(at("plugin.wat"), "(module )").unwrap();
        assert!(watch.has_changed(), "written in place");
        fs::write(at("new"), "(module  )").unwrap();
        assert!(watch.has_changed(), "a new file");
        fs::rename(at("new"), at("plugin.wat")).unwrap();
        assert!(watch.has_changed(), "renamed into place");
        fs::remove_file(at("plugin.wat")).unwrap();
        assert!(watch.has_changed(), "removed");
        fs::create_dir(at("tasks")).unwrap();
        fs::write(at("tasks/a.task.json"), "{}").unwrap();
        assert!(watch.has_changed(), "a golden task");
        fs::write(at("plugin.toml"), "[plu").unwrap();
        assert!(watch.has_changed(), "a manifest half written");
        assert!(!watch.has_changed());

        fs::write(at("built.wasm"), "built").unwrap();
        fs::write(at("plugin.toml"), "[plu").unwrap();
        assert!(!watch.has_changed(), "what is no part of it");
    }
}
