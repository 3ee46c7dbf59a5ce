//! One look at one path, whatever lies there.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rustix::fs::OFlags;

use crate::ids::Digest;

/// File systems stamp changes by a clock that ticks; what was changed within a
/// tick of a look may be changed again without showing.
const TICK: Duration = Duration::from_secs(2);

/// What tells one state of a file from another, as far as its system says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    fn of(found: &Metadata) -> Self {
        Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }

    /// The identity, unless the last change is too fresh for it to be relied on.
    pub(super) fn settled(found: &Metadata, now: SystemTime) -> Option<Self> {
        let seconds = u64::try_from(found.ctime()).ok()?;
        let changed = UNIX_EPOCH + Duration::from_secs(seconds);
        let age = now.duration_since(changed).ok()?;
        (age > TICK).then(|| Self::of(found))
    }
}

#[derive(Debug)]
pub(super) enum Found {
    Bytes {
        digest: Digest,
        bytes: Bytes,
    },
    TooLarge(u64),
    Unusable(String),
    Gone,
    /// It changed while it was read.
    Changing,
}

#[derive(Debug)]
pub(super) struct Look {
    pub(super) identity: Option<Identity>,
    pub(super) found: Found,
}

impl Look {
    /// Looks at a path. Waits for the disk and for nothing else.
    pub(super) fn at(path: &Path, max_bytes: u64) -> Self {
        let now = SystemTime::now();
        let (identity, found) = match read(path, max_bytes) {
            Ok((metadata, found)) => (Identity::settled(&metadata, now), found),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => (None, Found::Gone),
            Err(cause) => (None, Found::Unusable(cause.to_string())),
        };
        Self { identity, found }
    }

    pub(super) fn agrees_with(&self, other: &Self) -> bool {
        match (&self.found, &other.found) {
            (Found::Bytes { digest: one, .. }, Found::Bytes { digest: two, .. }) => one == two,
            (Found::TooLarge(one), Found::TooLarge(two)) => one == two,
            (Found::Unusable(one), Found::Unusable(two)) => one == two,
            (Found::Gone, Found::Gone) => true,
            _ => false,
        }
    }

    pub(super) fn without_bytes(mut self) -> Self {
        if let Found::Bytes { bytes, .. } = &mut self.found {
            *bytes = Bytes::new();
        }
        self
    }
}

fn read(path: &Path, max_bytes: u64) -> io::Result<(Metadata, Found)> {
    let named = std::fs::symlink_metadata(path)?;
    if let Some(what) = unusable(&named) {
        return Ok((named, Found::Unusable(what.to_owned())));
    }
    if named.len() > max_bytes {
        let bytes = named.len();
        return Ok((named, Found::TooLarge(bytes)));
    }
    let file = open(path)?;
    let before = file.metadata()?;
    // Something else may lie there by now.
    if let Some(what) = unusable(&before) {
        return Ok((before, Found::Unusable(what.to_owned())));
    }
    let mut bytes = Vec::new();
    (&file).take(max_bytes + 1).read_to_end(&mut bytes)?;
    let after = file.metadata()?;
    let whole = bytes.len() as u64 == after.len();
    if !whole || Identity::of(&before) != Identity::of(&after) {
        return Ok((after, Found::Changing));
    }
    let found = Found::Bytes {
        digest: Digest::of(&bytes),
        bytes: bytes.into(),
    };
    Ok((after, found))
}

/// Neither follows a link nor waits for the other end of a pipe.
fn open(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let flags = i32::try_from(flags).map_err(io::Error::other)?;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// What is not read, since it would block, never end, or change unseen.
fn unusable(found: &Metadata) -> Option<&'static str> {
    let kind = found.file_type();
    if kind.is_file() {
        None
    } else if kind.is_symlink() {
        Some("it is a symbolic link, whose target may change unseen")
    } else if kind.is_dir() {
        Some("it is a directory")
    } else if kind.is_fifo() {
        Some("it is a pipe")
    } else if kind.is_socket() {
        Some("it is a socket")
    } else {
        Some("it is a device")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(path: &Path) -> String {
        match Look::at(path, 4).found {
            Found::Bytes { bytes, .. } => format!("{bytes:?}"),
            Found::TooLarge(bytes) => format!("{bytes} bytes"),
            Found::Unusable(why) => why,
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn whatever_lies_there_is_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        assert_eq!(seen(&at("nothing")), "Gone");
        std::fs::write(at("file"), "1234").unwrap();
        assert_eq!(seen(&at("file")), r#"b"1234""#);
        std::fs::write(at("large"), "12345").unwrap();
        assert_eq!(seen(&at("large")), "5 bytes");
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        assert!(seen(&at("link")).contains("symbolic link"));
        std::fs::create_dir(at("directory")).unwrap();
        assert_eq!(seen(&at("directory")), "it is a directory");
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        assert_eq!(seen(&at("socket")), "it is a socket");
        assert_eq!(seen(Path::new("/dev/zero")), "it is a device");
        let mode = rustix::fs::Mode::RUSR;
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), kind, mode, 0).unwrap();
        assert_eq!(seen(&at("pipe")), "it is a pipe");
        // Opening it is refused whoever asks: the name leads through a file.
        assert!(seen(&at("file").join("below")).contains("Not a directory"));
    }

    #[test]
    fn a_fresh_change_is_no_identity() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "1").unwrap();
        let found = std::fs::metadata(&path).unwrap();
        let now = SystemTime::now();
        assert_eq!(Identity::settled(&found, now), None);
        let later = now + TICK + Duration::from_secs(2);
        assert_eq!(Identity::settled(&found, later), Some(Identity::of(&found)));
    }
}
