//! The directories that a host reads and writes.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::finding::{Check, Finding, Remedy, Severity};

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

const CACHE_RIGHTS: Check = Check {
    id: "plugins.cache_rights",
    title: "who may write the cache",
    severity: Severity::Error,
    fix: "chmod 700 it: a host runs the machine code that lies there",
};

const STATE: Check = Check {
    id: "state.dir",
    title: "state directory",
    severity: Severity::Error,
    fix: "let this user write there, or name another directory with COGO_STATE_DIR",
};

const ARTIFACTS: Check = Check {
    id: "state.artifacts",
    title: "artifacts",
    severity: Severity::Error,
    fix: "let this user write there: tasks that store an artifact fail",
};

const SPACE: Check = Check {
    id: "state.space",
    title: "space for artifacts and machine code",
    severity: Severity::Warning,
    fix: "free space on that file system, or name another one with COGO_STATE_DIR",
};

/// A few hundred artifacts and a machine code cache of the usual size.
const LEAST_SPACE: u64 = 512 * 1024 * 1024;

pub(super) fn examine(config: &Config) -> Vec<Finding> {
    let state = &config.state_dir;
    vec![
        writable(STATE, state),
        writable(ARTIFACTS, &state.join("artifacts")),
        space(state),
        plugins_dir(config),
        writable(CACHE, &config.cache_dir),
        cache_rights(&config.cache_dir),
    ]
}

fn plugins_dir(config: &Config) -> Finding {
    let Some(dir) = &config.plugins_dir else {
        return PLUGINS.pass("none named; bundled plugins only");
    };
    let shown = dir.display();
    match components(dir) {
        Ok(n) => PLUGINS.pass(format!("`{shown}`, {n} components")),
        Err(cause) => {
            let missing = cause.kind() == io::ErrorKind::NotFound && !dir.exists();
            let finding = PLUGINS.bad(format!("`{shown}`: {cause}"));
            match missing {
                true => finding.mended_by(Remedy::MakeDirectory(dir.clone())),
                false => finding,
            }
        }
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

/// A host makes what is missing at its start, so only that matters.
fn writable(check: Check, dir: &Path) -> Finding {
    let shown = dir.display();
    let Some((place, existing)) = nearest(dir) else {
        return check.bad(format!("`{shown}` does not exist and cannot be made"));
    };
    match try_write(&existing) {
        Ok(()) if existing == place => check.pass(format!("`{shown}`")),
        Ok(()) => check.pass(format!("`{shown}`, made when it is needed")),
        Err(cause) => check.bad(format!("`{}`: {cause}", existing.display())),
    }
}

/// The absolute path, which begins where this runs, and the nearest directory
/// above it that exists, which may be itself.
fn nearest(dir: &Path) -> Option<(PathBuf, PathBuf)> {
    let place = std::path::absolute(dir).unwrap_or_else(|_| dir.to_path_buf());
    let existing = place.ancestors().find(|dir| dir.is_dir())?.to_path_buf();
    Some((place, existing))
}

fn cache_rights(dir: &Path) -> Finding {
    let shown = dir.display();
    match fs::metadata(dir) {
        Err(_) => CACHE_RIGHTS.pass(format!("`{shown}`, made when it is needed")),
        Ok(found) => {
            let mode = found.permissions().mode() & 0o777;
            let detail = format!("`{shown}`, mode {mode:o}");
            CACHE_RIGHTS
                .holds(mode & 0o022 == 0, detail)
                .mended_by(Remedy::Restrict(dir.to_path_buf()))
        }
    }
}

fn space(dir: &Path) -> Finding {
    let Some((_, existing)) = nearest(dir) else {
        return SPACE.unknown("there is no such place");
    };
    match rustix::fs::statvfs(&existing) {
        Err(cause) => SPACE.unknown(cause.to_string()),
        Ok(found) => {
            let free = found.f_bavail.saturating_mul(found.f_frsize);
            let detail = format!("{} MiB free at `{}`", free >> 20, existing.display());
            SPACE.holds(free >= LEAST_SPACE, detail)
        }
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
        let findings = examine(&config);
        let cache = findings
            .iter()
            .filter(|found| found.check.id.contains("cache"));
        assert!(cache.clone().all(|found| found.state == State::Pass));
        assert_eq!(cache.count(), 2);
    }

    #[test]
    fn a_cache_that_others_may_write_is_for_its_owner_alone_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let finding = cache_rights(dir.path());
        assert_eq!(finding.state, State::Fail);
        assert_eq!(
            finding.remedy,
            Some(Remedy::Restrict(dir.path().to_owned()))
        );
    }
}
