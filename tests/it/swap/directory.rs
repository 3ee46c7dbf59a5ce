//! The directory itself: what lies in it besides files, and how it comes and
//! goes.

use std::fs;
use std::path::Path;
use std::process::Command;

use cogo_host::plugin::watcher::{Change, Content, DirectoryState};

use super::harness::{NEVER, QUIET, Watched};

async fn unusable(here: &mut Watched, file: &str) -> String {
    match here.file().await {
        (name, Content::Unusable(why)) if name == file => why,
        other => panic!("{file}: {other:?}"),
    }
}

fn whole(bytes: &'static [u8]) -> Content {
    Content::Bytes {
        digest: cogo_host::ids::Digest::of(bytes),
        bytes: bytes.into(),
    }
}

#[tokio::test]
async fn what_is_no_file_is_told_with_its_reason_and_never_followed() {
    let mut here = Watched::new(NEVER, |dir| fs::create_dir(dir).unwrap());
    here.becomes(DirectoryState::Watched).await;
    fs::write(here.at("target"), "a").unwrap();
    std::os::unix::fs::symlink(here.at("target"), here.at("link.wasm")).unwrap();
    assert!(
        unusable(&mut here, "link.wasm")
            .await
            .contains("symbolic link")
    );
    std::os::unix::fs::symlink("nowhere", here.at("dangling.wasm")).unwrap();
    assert!(
        unusable(&mut here, "dangling.wasm")
            .await
            .contains("symbolic link")
    );
    fs::create_dir(here.at("dir.wasm")).unwrap();
    assert!(unusable(&mut here, "dir.wasm").await.contains("directory"));
    let made = Command::new("mkfifo").arg(here.at("pipe.wasm")).status();
    assert!(made.unwrap().success());
    assert!(unusable(&mut here, "pipe.wasm").await.contains("pipe"));
    let large = fs::File::create(here.at("large.wasm")).unwrap();
    large.set_len(1 << 40).unwrap();
    drop(large);
    let told = here.file().await;
    assert_eq!(told, ("large.wasm".to_owned(), Content::TooLarge(1 << 40)));

    // Each becomes a file like any once it is one.
    fs::remove_dir(here.at("dir.wasm")).unwrap();
    fs::write(here.at("dir.wasm"), "b").unwrap();
    let told = here.until("dir.wasm", Some(b"b")).await;
    assert_eq!(told.last(), Some(&whole(b"b")));
    for file in ["link.wasm", "pipe.wasm", "large.wasm"] {
        fs::remove_file(here.at(file)).unwrap();
        here.until(file, None).await;
    }
    here.stays().await;
}

#[tokio::test]
async fn files_that_are_nobodys_business() {
    let mut here = Watched::new(QUIET, |dir| fs::create_dir(dir).unwrap());
    here.becomes(DirectoryState::Watched).await;
    for file in [
        "README.md",
        "mock.wasm~",
        "mock.wasm.bak",
        "#mock.wasm#",
        ".mock.wasm",
        ".mock.wasm.swp",
        "wasm",
    ] {
        fs::write(here.at(file), "x").unwrap();
    }
    fs::create_dir(here.at("sub")).unwrap();
    fs::write(here.at("sub/mock.wasm"), "x").unwrap();
    here.stays().await;
}

#[tokio::test]
async fn a_directory_that_is_missing_is_waited_for() {
    let mut here = Watched::new(NEVER, |_| {});
    here.becomes(DirectoryState::Missing).await;
    fs::create_dir(&here.directory).unwrap();
    fs::write(here.at("a.wasm"), "a").unwrap();
    here.becomes(DirectoryState::Watched).await;
    here.until("a.wasm", Some(b"a")).await;

    fs::remove_dir_all(&here.directory).unwrap();
    here.becomes(DirectoryState::Missing).await;
    here.until("a.wasm", None).await;

    fs::create_dir(&here.directory).unwrap();
    here.becomes(DirectoryState::Watched).await;
    fs::write(here.at("a.wasm"), "b").unwrap();
    here.until("a.wasm", Some(b"b")).await;
}

#[tokio::test]
async fn the_way_to_the_directory_may_be_missing_too() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path().join("one/two/plugins");
    let settings = cogo_host::plugin::watcher::WatchSettings {
        directory: directory.clone(),
        quiet: QUIET,
        rescan: NEVER,
        max_bytes: 100,
    };
    let mut watcher = cogo_host::plugin::watcher::Watcher::new(settings).unwrap();
    assert_eq!(
        watcher.next().await,
        Change::Directory(DirectoryState::Missing)
    );
    let grow = |part: &str| fs::create_dir(temporary.path().join(part)).unwrap();
    grow("one");
    assert_eq!(watcher.ready().await, None);
    grow("one/two");
    grow("one/two/plugins");
    fs::write(directory.join("a.wasm"), "a").unwrap();
    let next = |watcher: cogo_host::plugin::watcher::Watcher| async move {
        let mut watcher = watcher;
        let next = tokio::time::timeout(crate::support::process::PATIENCE, watcher.next());
        (next.await.unwrap(), watcher)
    };
    let (change, watcher) = next(watcher).await;
    assert_eq!(change, Change::Directory(DirectoryState::Watched));
    let (change, _) = next(watcher).await;
    let path = directory.join("a.wasm");
    let content = whole(b"a");
    assert_eq!(change, Change::File { path, content });
}

#[tokio::test]
async fn another_directory_in_its_place_is_noticed() {
    let mut here = Watched::new(NEVER, |dir| {
        fs::create_dir(dir).unwrap();
        fs::write(dir.join("a.wasm"), "a").unwrap();
        fs::write(dir.join("b.wasm"), "b").unwrap();
    });
    here.until("a.wasm", Some(b"a")).await;
    here.until("b.wasm", Some(b"b")).await;
    let beside = |name: &str| here.directory.parent().unwrap().join(name);
    let (old, new) = (beside("old"), beside("new"));
    fs::create_dir(&new).unwrap();
    fs::write(new.join("a.wasm"), "c").unwrap();
    fs::rename(&here.directory, &old).unwrap();
    fs::rename(&new, &here.directory).unwrap();
    let mut left = vec![("a.wasm", whole(b"c")), ("b.wasm", Content::Gone)];
    while !left.is_empty() {
        let (name, content) = here.file().await;
        // It may be seen while it is away.
        left.retain(|(file, expected)| *file != name || *expected != content);
    }
    // The one that was moved away is nobody's business any more.
    fs::write(old.join("a.wasm"), "d").unwrap();
    here.stays().await;
    fs::write(here.at("b.wasm"), "e").unwrap();
    here.until("b.wasm", Some(b"e")).await;
}

#[tokio::test]
async fn a_directory_that_cannot_be_read_takes_nothing_away() {
    let mut here = Watched::new(QUIET, |dir| {
        fs::create_dir(dir).unwrap();
        fs::write(dir.join("a.wasm"), "a").unwrap();
    });
    here.until("a.wasm", Some(b"a")).await;
    let away = |to: &Path| fs::rename(&here.directory, to).unwrap();
    let aside = here.directory.with_file_name("aside");
    away(&aside);
    fs::write(&here.directory, "no directory").unwrap();
    loop {
        match here.change().await {
            Change::Directory(DirectoryState::Unreadable(why)) => {
                assert_eq!(why, "it is no directory");
                break;
            }
            // Seen in between.
            Change::Directory(_) | Change::File { .. } => {}
        }
    }
    fs::remove_file(&here.directory).unwrap();
    fs::rename(&aside, &here.directory).unwrap();
    here.becomes(DirectoryState::Watched).await;
}
