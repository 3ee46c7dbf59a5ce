//! The directories that a host reads and writes.

use std::fs;
use std::io;
use std::path::Path;

use crate::config::Config;
use crate::finding::{Check, Finding, Severity};

const PLUGINS: Check = Check {
    id: "plugins.dir",
    title: "plugins directory",
    severity: Severity::Error,
    fix: "make the directory that COGO_PLUGINS_DIR names, and let this user read it",
};

const CACHE: Check = Check {
    id: "plugins.cache",
    title: "cache of compiled plugins",
    severity: Severity::Warning,
    fix: "let this user write there, or name another directory by `cache_dir`; without it each start compiles anew",
};

pub(super) fn plugins_dir(config: &Config) -> Finding {
    let Some(dir) = &config.plugins_dir else {
        return PLUGINS.pass("none named; bundled plugins only");
    };
    let shown = dir.display();
    match components(dir) {
        Ok(n) => PLUGINS.pass(format!("`{shown}`, {n} components")),
        Err(cause) => PLUGINS.bad(format!("`{shown}`: {cause}")),
    }
}

/// How many there are, each of which can be opened.
fn components(dir: &Path) -> io::Result<usize> {
    let mut n = 0;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "wasm")
        {
            let named = |cause: io::Error| {
                let name = path.file_name().unwrap_or_default().display();
                io::Error::new(cause.kind(), format!("`{name}`: {cause}"))
            };
            fs::File::open(&path).map_err(named)?;
            n += 1;
        }
    }
    Ok(n)
}

pub(super) fn cache_dir(config: &Config) -> Finding {
    let dir = &config.cache_dir;
    let shown = dir.display();
    // A host makes it at its start. A relative path begins where this runs.
    let place = std::path::absolute(dir).unwrap_or_else(|_| dir.clone());
    let existing = place.ancestors().find(|dir| dir.is_dir());
    let Some(existing) = existing else {
        return CACHE.bad(format!("`{shown}` does not exist and cannot be made"));
    };
    match try_write(existing) {
        Ok(()) if existing == place => CACHE.pass(format!("`{shown}`")),
        Ok(()) => CACHE.pass(format!("`{shown}`, made when it is needed")),
        Err(cause) => CACHE.bad(format!("`{}`: {cause}", existing.display())),
    }
}

/// Permissions alone do not tell: a file system may be full, or read-only.
fn try_write(dir: &Path) -> io::Result<()> {
    let file = dir.join(format!(".cogo-doctor-{}", std::process::id()));
    let written = fs::write(&file, b"written and removed by `cogo-host doctor`");
    let removed = fs::remove_file(&file);
    written.and(removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layers;
    use crate::finding::State;

    #[test]
    fn a_cache_that_nobody_made_yet_is_no_trouble() {
        let layers = Layers::new([("COGO_CACHE_DIR".to_owned(), "not-yet/cache".to_owned())]);
        let config = Config::from_layers(&layers).unwrap();
        assert_eq!(cache_dir(&config).state, State::Pass);
    }
}
