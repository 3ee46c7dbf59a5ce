//! Reads a plugin from a directory that anybody may have put anything into.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use bytes::Bytes;
use rustix::fs::OFlags;

use super::{Candidate, LoadCause, LoadError, MAX_BYTES, Source};
use crate::ids::PluginName;

impl Candidate {
    /// Reads a plugin from a file. Blocks on the disk, on nothing else.
    ///
    /// # Errors
    /// `P102` for what cannot be read or is no regular file, `P101` for what is
    /// too large; it is then not read at all.
    pub fn read(path: &Path, name: Option<PluginName>) -> Result<Self, LoadError> {
        let place = path.display().to_string();
        let bytes = read_bounded(path).map_err(|cause| LoadError::new(place.clone(), cause))?;
        Ok(Self {
            name,
            bytes,
            source: Source::Directory,
            place,
            signer: None,
        })
    }
}

fn read_bounded(path: &Path) -> Result<Bytes, LoadCause> {
    let unreadable = |cause: io::Error| {
        LoadCause::Unreadable(match cause.kind() {
            io::ErrorKind::NotFound => "there is no such file".to_owned(),
            io::ErrorKind::PermissionDenied => "this user must not read it".to_owned(),
            _ => cause.to_string(),
        })
    };
    let file = open(path).map_err(unreadable)?;
    let found = file.metadata().map_err(unreadable)?;
    if !found.is_file() {
        let what = if found.is_dir() {
            "it is a directory"
        } else {
            "it is no regular file"
        };
        return Err(LoadCause::Unreadable(what.to_owned()));
    }
    if found.len() > MAX_BYTES {
        return Err(LoadCause::TooLarge { bytes: found.len() });
    }
    let mut bytes = Vec::new();
    // It may grow while it is read.
    let mut bounded = file.take(MAX_BYTES + 1);
    bounded.read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes.into())
}

/// Opens without waiting: a pipe that nobody writes to would hold the reader.
fn open(path: &Path) -> io::Result<File> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(path: &Path) -> &'static str {
        Candidate::read(path, None).unwrap_err().code()
    }

    #[test]
    fn only_regular_files_of_bearable_size_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        assert_eq!(code(&at("absent.wasm")), "P102");
        std::fs::create_dir(at("directory.wasm")).unwrap();
        assert_eq!(code(&at("directory.wasm")), "P102");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            at("pipe.wasm"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        assert_eq!(code(&at("pipe.wasm")), "P102");
        File::create(at("large.wasm"))
            .unwrap()
            .set_len(1 << 30)
            .unwrap();
        assert_eq!(code(&at("large.wasm")), "P101");
        std::fs::write(at("good.wasm"), b"x").unwrap();
        std::os::unix::fs::symlink(at("good.wasm"), at("link.wasm")).unwrap();
        let read = Candidate::read(&at("link.wasm"), None).unwrap();
        assert_eq!(read.bytes.as_ref(), b"x");
    }
}
