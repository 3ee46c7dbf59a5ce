//! What may lie in the directory, and which versions serve then.

use std::fs;
use std::process::Command;

use cogo_host::config::Config;
use cogo_host::ids::Digest;
use cogo_host::plugin::load::Source;
use serde_json::{Value, json};

use super::harness::{Following, config, named, version};

#[tokio::test]
async fn a_plugin_comes_changes_and_goes() {
    let mut here = Following::start(&[]).await;
    let one = here.put("guest.wasm", &version(1).component());
    let event = here.expect("plugin_loaded").await;
    assert_eq!(event.payload.value()["name"], "guest");
    assert_eq!(event.payload.value()["from"], Value::Null);
    assert_eq!(event.payload.value()["to"]["digest"], json!(one));
    assert_eq!(event.payload.value()["actor"], "plugins_dir");
    assert!(
        event.payload.value()["host"]
            .as_str()
            .unwrap()
            .starts_with("test-host:")
    );
    assert_eq!(here.serving("guest"), Some(one));

    let two = here.put("guest.wasm", &version(2).component());
    let swapped = here.expect("plugin_swapped").await;
    assert_ne!(swapped.trace_id, event.trace_id);
    assert_eq!(swapped.payload.value()["from"]["version"], "1.0.1");
    assert_eq!(swapped.payload.value()["from"]["digest"], json!(one));
    assert_eq!(swapped.payload.value()["to"]["version"], "1.0.2");
    assert_eq!(here.serving("guest"), Some(two));

    fs::remove_file(here.at("guest.wasm")).unwrap();
    let gone = here.expect("plugin_swapped").await;
    assert_eq!(gone.payload.value()["to"], Value::Null);
    assert_eq!(gone.reason.unwrap(), "its file is gone");
    assert_eq!(here.serving("guest"), None);
}

#[tokio::test]
async fn a_bundled_plugin_is_replaced_and_comes_back() {
    let mut here = Following::start(&[]).await;
    let bundled = here.serving("mock").unwrap();
    let mock = named("mock", "9.0.0").component();
    let own = here.put("mock.wasm", &mock);
    let event = here.expect("plugin_swapped").await;
    assert_eq!(event.payload.value()["from"]["source"], "bundled");
    assert_eq!(event.payload.value()["to"]["source"], "directory");
    assert_eq!(here.serving("mock"), Some(own));
    fs::remove_file(here.at("mock.wasm")).unwrap();
    let event = here.expect("plugin_swapped").await;
    assert!(event.reason.unwrap().contains("bundled version"));
    assert_eq!(event.payload.value()["to"]["digest"], json!(bundled));
    assert_eq!(here.listed("mock").serving.unwrap().source, Source::Bundled);
}

#[tokio::test]
async fn whatever_is_wrong_with_a_file_the_old_version_serves() {
    let mut here = Following::start(&[]).await;
    let good = version(1).component();
    let digest = here.put("guest.wasm", &good);
    here.expect("plugin_loaded").await;
    let renamed = named("other", "1.0.0").component();
    let traps = version(2).clone();
    let traps = cogo_guest_with_describe(traps, "unreachable");
    let foreign = wat::parse_str("(component)").unwrap();
    let cases: [(&str, &str, Vec<u8>); 9] = [
        ("empty", "P110", Vec::new()),
        ("text", "P110", b"(component)".to_vec()),
        ("a core module", "P110", wat::parse_str("(module)").unwrap()),
        ("native code", "P110", b"\x7fELF and more".to_vec()),
        ("another world", "P120", foreign),
        ("torn", "P111", good[..good.len() / 2].to_vec()),
        (
            "without its last byte",
            "P111",
            good[..good.len() - 1].to_vec(),
        ),
        ("of another name", "P143", renamed),
        ("failing to describe itself", "P140", traps),
    ];
    for (what, code, bytes) in cases {
        let bad = here.put("guest.wasm", &bytes);
        let event = here.expect("plugin_rejected").await;
        assert_eq!(event.payload.value()["code"], code, "{what}: {event:?}");
        assert_eq!(event.payload.value()["digest"], json!(bad), "{what}");
        assert_eq!(
            event.payload.value()["serving"]["digest"],
            json!(digest),
            "{what}"
        );
        assert!(
            !event.payload.value()["hint"].as_str().unwrap().is_empty(),
            "{what}"
        );
        assert!(event.reason.unwrap().contains("guest.wasm"), "{what}");
        assert_eq!(here.serving("guest"), Some(digest), "{what}");
        let failure = here.listed("guest").last_failure.unwrap();
        assert_eq!(failure.code, code, "{what}");
    }
    refused_without_bytes(&mut here, digest).await;

    // What serves comes back to its file: nothing is left to complain of.
    here.put("guest.wasm", &good);
    let mut changes = here.catalog().changes();
    while here.listed("guest").last_failure.is_some() {
        changes.changed().await.unwrap();
    }
    assert_eq!(here.serving("guest"), Some(digest));
    here.stays().await;
}

fn cogo_guest_with_describe(mut guest: crate::guest::Guest, describe: &str) -> Vec<u8> {
    guest.describe = describe.to_owned();
    guest.component()
}

/// Links, pipes, directories and giants.
async fn refused_without_bytes(here: &mut Following, digest: Digest) {
    type Make = fn(&std::path::Path);
    let cases: [(&str, &str, Make); 4] = [
        ("symbolic link", "P102", |path| {
            std::os::unix::fs::symlink("/dev/null", path).unwrap();
        }),
        ("directory", "P102", |path| fs::create_dir(path).unwrap()),
        ("pipe", "P102", |path| {
            let made = Command::new("mkfifo").arg(path).status();
            assert!(made.unwrap().success());
        }),
        ("at most", "P101", |path| {
            let file = fs::File::create(path).unwrap();
            file.set_len(33 << 20).unwrap();
        }),
    ];
    let path = here.at("guest.wasm");
    for (what, code, make) in cases {
        let draft = here.at("draft");
        make(&draft);
        // A directory cannot be renamed onto a file, nor a file onto it.
        let aside = here.directory.parent().unwrap().join("aside");
        fs::rename(&path, &aside).unwrap();
        fs::rename(&draft, &path).unwrap();
        let event = here.expect("plugin_rejected").await;
        assert_eq!(event.payload.value()["code"], code, "{event:?}");
        assert_eq!(event.payload.value()["digest"], Value::Null);
        assert!(event.reason.unwrap().contains(what), "{what}");
        assert_eq!(here.serving("guest"), Some(digest), "{what}");
        if path.is_dir() {
            fs::rename(&path, here.directory.parent().unwrap().join("dir")).unwrap();
            fs::write(&path, "x").unwrap();
            here.expect("plugin_rejected").await;
        }
    }
}

#[tokio::test]
async fn a_file_that_can_be_no_plugins_is_shown() {
    let mut here = Following::start(&[]).await;
    here.put("My Plugin.wasm", &version(1).component());
    let event = here.expect("plugin_rejected").await;
    assert_eq!(event.payload.value()["name"], "My Plugin");
    assert_eq!(event.payload.value()["code"], "P100");
    let refused = here.swapper.directory().unwrap().refused_files;
    assert!(refused[0].failure.message.contains("`My Plugin`"));
    fs::remove_file(here.at("My Plugin.wasm")).unwrap();
    // Written in place, it is looked at no sooner than what is gone.
    fs::write(here.at("guest.wasm"), version(1).component()).unwrap();
    here.expect("plugin_loaded").await;
    assert!(here.swapper.directory().unwrap().refused_files.is_empty());
}

#[tokio::test]
async fn what_lies_there_at_the_start_is_served_from_the_start() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path().join("plugins");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("guest.wasm"), version(1).component()).unwrap();
    fs::write(directory.join("broken.wasm"), "x").unwrap();
    let config = config(temporary.path(), &[]);
    let mut here = Following::with(config, temporary).await;
    assert!(here.serving("guest").is_some());
    assert_eq!(here.listed("broken").last_failure.unwrap().code, "P110");
    here.expect("plugin_rejected").await;
    here.expect("plugin_loaded").await;
}

/// A configuration that pins the plugin `guest`.
fn pinned(root: &std::path::Path, stage: &str, pin: Option<Digest>) -> Config {
    let mut config = config(root, &[("COGO_STAGE", stage)]);
    config
        .plugins
        .entry("guest".parse().unwrap())
        .or_default()
        .digest = pin;
    config
}

#[tokio::test]
async fn outside_of_development_only_pinned_versions_serve() {
    let good = version(1).component();
    let pin = Digest::of(&good);
    for stage in ["staging", "production"] {
        let temporary = tempfile::tempdir().unwrap();
        fs::create_dir(temporary.path().join("plugins")).unwrap();
        let config = pinned(temporary.path(), stage, Some(pin));
        let mut here = Following::with(config, temporary).await;
        here.put("guest.wasm", &good);
        here.expect("plugin_loaded").await;
        let other = here.put("guest.wasm", &version(2).component());
        let event = here.expect("plugin_rejected").await;
        assert_eq!(event.payload.value()["code"], "P103", "{stage}");
        let payload = event.payload.value();
        let hint = payload["hint"].as_str().unwrap();
        assert!(hint.contains(&other.to_string()), "{hint}");
        assert_eq!(here.serving("guest"), Some(pin), "{stage}");
    }
}

#[tokio::test]
async fn production_refuses_what_nobody_pinned() {
    let good = version(1).component();
    let temporary = tempfile::tempdir().unwrap();
    fs::create_dir(temporary.path().join("plugins")).unwrap();
    let config = pinned(temporary.path(), "production", None);
    let mut here = Following::with(config, temporary).await;
    let digest = here.put("guest.wasm", &good);
    let event = here.expect("plugin_rejected").await;
    assert_eq!(event.payload.value()["code"], "P104");
    let payload = event.payload.value();
    let hint = payload["hint"].as_str().unwrap();
    assert!(hint.contains(&format!("digest = \"{digest}\"")), "{hint}");
    assert!(hint.contains("[plugin.guest]"), "{hint}");
    assert_eq!(here.serving("guest"), None);
    assert!(here.listed("guest").candidates.is_empty());
    // What is part of the program is known.
    assert!(here.serving("mock").is_some());
}
