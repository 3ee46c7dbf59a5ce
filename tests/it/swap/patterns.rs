//! Every way in which people and programs write files: the whole content is
//! told, and nothing that was ever half of it.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek as _, Write as _};
use std::path::Path;

use cogo_host::plugin::watcher::Content;

use super::harness::{NEVER, QUIET, Watched};

const FILE: &str = "mock.wasm";

/// Contents of one length, so that half of one and half of the other is a file
/// like any.
fn content(fill: u8) -> Vec<u8> {
    vec![fill; 100_000]
}

/// One way to write a file that is there already.
type Pattern = (&'static str, fn(&Path, &[u8]));

const PATTERNS: [Pattern; 13] = [
    ("rename into place", |dir, bytes| {
        fs::write(dir.join("mock.wasm.tmp"), bytes).unwrap();
        fs::rename(dir.join("mock.wasm.tmp"), dir.join(FILE)).unwrap();
    }),
    ("rename from another directory", |dir, bytes| {
        let draft = dir.parent().unwrap().join("draft");
        fs::write(&draft, bytes).unwrap();
        fs::rename(&draft, dir.join(FILE)).unwrap();
    }),
    (
        "hidden draft, synced, renamed, as rsync does",
        |dir, bytes| {
            let draft = dir.join(".mock.wasm.Xy12ab");
            let mut file = File::create(&draft).unwrap();
            file.write_all(bytes).unwrap();
            file.sync_all().unwrap();
            drop(file);
            fs::rename(&draft, dir.join(FILE)).unwrap();
            File::open(dir).unwrap().sync_all().unwrap();
        },
    ),
    ("rewrite in place", |dir, bytes| {
        fs::write(dir.join(FILE), bytes).unwrap();
    }),
    (
        "overwrite without truncating, in small steps",
        |dir, bytes| {
            let mut file = OpenOptions::new().write(true).open(dir.join(FILE)).unwrap();
            for chunk in bytes.chunks(1_000) {
                file.write_all(chunk).unwrap();
            }
        },
    ),
    ("backwards", |dir, bytes| {
        let mut file = OpenOptions::new().write(true).open(dir.join(FILE)).unwrap();
        for (n, chunk) in bytes.chunks(10_000).enumerate().rev() {
            file.seek(std::io::SeekFrom::Start(n as u64 * 10_000))
                .unwrap();
            file.write_all(chunk).unwrap();
        }
    }),
    ("copy", |dir, bytes| {
        let from = dir.parent().unwrap().join("original");
        fs::write(&from, bytes).unwrap();
        fs::copy(&from, dir.join(FILE)).unwrap();
    }),
    ("delete and create", |dir, bytes| {
        fs::remove_file(dir.join(FILE)).unwrap();
        fs::write(dir.join(FILE), bytes).unwrap();
    }),
    (
        "move away, write anew, delete, as vim does",
        |dir, bytes| {
            fs::write(dir.join("4913"), "").unwrap();
            fs::remove_file(dir.join("4913")).unwrap();
            fs::rename(dir.join(FILE), dir.join("mock.wasm~")).unwrap();
            fs::write(dir.join(FILE), bytes).unwrap();
            fs::remove_file(dir.join("mock.wasm~")).unwrap();
        },
    ),
    (
        "lock, autosave, backup, rewrite, as emacs does",
        |dir, bytes| {
            std::os::unix::fs::symlink("user@host.1", dir.join(".#mock.wasm")).unwrap();
            fs::write(dir.join("#mock.wasm#"), &bytes[..10]).unwrap();
            fs::copy(dir.join(FILE), dir.join("mock.wasm~")).unwrap();
            fs::write(dir.join(FILE), bytes).unwrap();
            fs::remove_file(dir.join("#mock.wasm#")).unwrap();
            fs::remove_file(dir.join(".#mock.wasm")).unwrap();
        },
    ),
    ("append piece by piece, closed in between", |dir, bytes| {
        File::create(dir.join(FILE)).unwrap();
        for chunk in bytes.chunks(30_000) {
            let file = OpenOptions::new().append(true).open(dir.join(FILE));
            file.unwrap().write_all(chunk).unwrap();
        }
    }),
    ("linked into place", |dir, bytes| {
        let from = dir.parent().unwrap().join("linked");
        let _ = fs::remove_file(&from);
        fs::write(&from, bytes).unwrap();
        fs::remove_file(dir.join(FILE)).unwrap();
        fs::hard_link(&from, dir.join(FILE)).unwrap();
    }),
    ("twenty versions in a row", |dir, bytes| {
        for n in 0..20 {
            fs::write(dir.join("next"), content(n)).unwrap();
            fs::rename(dir.join("next"), dir.join(FILE)).unwrap();
        }
        fs::write(dir.join("next"), bytes).unwrap();
        fs::rename(dir.join("next"), dir.join(FILE)).unwrap();
    }),
];

/// Nothing but one byte over and over was ever a whole content.
fn assert_whole(pattern: &str, told: &[Content]) {
    for content in told {
        if let Content::Bytes { bytes, .. } = content {
            let fill = bytes[0];
            assert_eq!(*bytes, self::content(fill), "{pattern}: torn");
        } else {
            // A machine that is slow enough may see the file while it is gone.
            assert_eq!(*content, Content::Gone, "{pattern}");
        }
    }
}

#[tokio::test]
async fn whatever_the_pattern_the_final_content_is_told() {
    let mut here = Watched::new(NEVER, |dir| {
        fs::create_dir(dir).unwrap();
        fs::write(dir.join(FILE), content(b'a')).unwrap();
    });
    let first = here.until(FILE, Some(&content(b'a'))).await;
    assert_whole("start", &first);
    let mut fill = 100;
    for (pattern, write) in PATTERNS {
        // Twice, so that a pattern is also followed by itself.
        for _ in 0..2 {
            fill += 1;
            write(&here.directory, &content(fill));
            let told = here.until(FILE, Some(&content(fill))).await;
            assert_whole(pattern, &told);
        }
    }
    here.stays().await;
}

#[tokio::test]
async fn a_slow_writer_is_waited_for() {
    let mut here = Watched::new(NEVER, |dir| {
        fs::create_dir(dir).unwrap();
        fs::write(dir.join(FILE), content(b'a')).unwrap();
    });
    here.until(FILE, Some(&content(b'a'))).await;
    let new = content(b'b');
    let mut file = OpenOptions::new().write(true).open(here.at(FILE)).unwrap();
    file.write_all(&new[..50_000]).unwrap();
    // Half old, half new, and steady all that time.
    here.stays().await;
    file.write_all(&new[50_000..]).unwrap();
    drop(file);
    let told = here.until(FILE, Some(&new)).await;
    assert_eq!(told.len(), 1, "{}", told.len());
}

#[tokio::test]
async fn a_writer_that_never_closes_is_not_waited_for_for_ever() {
    let rescan = QUIET * 4;
    let mut here = Watched::new(rescan, |dir| fs::create_dir(dir).unwrap());
    let mut file = File::create(here.at(FILE)).unwrap();
    file.write_all(&content(b'a')).unwrap();
    let told = here.until(FILE, Some(&content(b'a'))).await;
    assert_whole("never closed", &told);
    drop(file);
}

#[tokio::test]
async fn what_is_written_again_as_it_was_is_no_change() {
    let mut here = Watched::new(NEVER, |dir| {
        fs::create_dir(dir).unwrap();
        fs::write(dir.join(FILE), content(b'a')).unwrap();
    });
    here.until(FILE, Some(&content(b'a'))).await;
    fs::write(here.at(FILE), content(b'a')).unwrap();
    fs::write(here.at("draft"), content(b'a')).unwrap();
    fs::rename(here.at("draft"), here.at(FILE)).unwrap();
    let file = File::open(here.at(FILE)).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH)
        .unwrap();
    here.stays().await;
    fs::remove_file(here.at(FILE)).unwrap();
    assert_eq!(here.until(FILE, None).await, [Content::Gone]);
}

#[tokio::test]
async fn a_rescan_finds_what_no_event_told() {
    let mut here = Watched::new(QUIET, |dir| fs::create_dir(dir).unwrap());
    let outside = here.directory.parent().unwrap().join("outside");
    fs::write(&outside, content(b'a')).unwrap();
    fs::hard_link(&outside, here.at(FILE)).unwrap();
    here.until(FILE, Some(&content(b'a'))).await;
    // Written through its other name, outside of what is watched.
    fs::write(&outside, content(b'b')).unwrap();
    let told = here.until(FILE, Some(&content(b'b'))).await;
    assert!(told.iter().all(|content| *content != Content::Gone));
}
