//! Signatures beside the files of plugins.

use std::fs;
use std::io::Cursor;

use minisign::KeyPair;

use super::harness::{Following, version};

const FILE: &str = "guest.wasm";
const SIGNATURE: &str = "guest.wasm.minisig";

struct Keys(KeyPair);

impl Keys {
    fn new() -> Self {
        Self(KeyPair::generate_unencrypted_keypair().unwrap())
    }

    fn public(&self) -> String {
        self.0.pk.to_base64()
    }

    fn sign(&self, bytes: &[u8]) -> String {
        let signed = minisign::sign(Some(&self.0.pk), &self.0.sk, Cursor::new(bytes), None, None);
        signed.unwrap().into_string()
    }
}

async fn following(stage: &str, keys: &Keys, required: &str) -> Following {
    Following::start(&[
        ("COGO_STAGE", stage),
        ("COGO_TRUSTED_KEYS", &keys.public()),
        ("COGO_SIGNED_STAGES", required),
    ])
    .await
}

#[tokio::test]
async fn only_what_is_signed_serves_and_whatever_is_wrong_the_old_version_stays() {
    let keys = Keys::new();
    let mut here = following("development", &keys, "development,production").await;
    let [one, two] = [1, 2].map(|n| version(n).component());
    here.put(SIGNATURE, keys.sign(&one).as_bytes());
    let first = here.put(FILE, &one);
    here.expect("plugin_loaded").await;
    let listed = here.listed("guest").serving.unwrap();
    assert_eq!(listed.signer.unwrap().to_string(), keys.public());

    // The signature beside it is the old version's.
    here.put(FILE, &two);
    let event = here.expect("plugin_rejected").await;
    assert_eq!(event.payload.value()["code"], "P106");
    assert_eq!(here.serving("guest"), Some(first));
    let stranger = Keys::new();
    for (signature, code) in [
        (stranger.sign(&two), "P106"),
        ("no signature".to_owned(), "P106"),
        (keys.sign(&two).replace("timestamp:", "timestamp:1"), "P106"),
    ] {
        here.put(SIGNATURE, signature.as_bytes());
        let event = here.expect("plugin_rejected").await;
        assert_eq!(event.payload.value()["code"], code, "{signature}");
        assert!(!event.payload.value()["hint"].as_str().unwrap().is_empty());
        assert_eq!(here.serving("guest"), Some(first));
    }
    fs::remove_file(here.at(SIGNATURE)).unwrap();
    let event = here.expect("plugin_rejected").await;
    assert_eq!(event.payload.value()["code"], "P105");
    let payload = event.payload.value();
    let hint = payload["hint"].as_str().unwrap();
    assert!(
        hint.contains("guest.wasm.minisig") || hint.contains("NAME.wasm.minisig"),
        "{hint}"
    );

    // It comes after its component, and counts.
    here.put(SIGNATURE, keys.sign(&two).as_bytes());
    here.expect("plugin_swapped").await;
    assert_eq!(here.listed("guest").serving.unwrap().version, "1.0.2");
    // What is part of the program needs none.
    assert!(here.serving("mock").is_some());
}

#[tokio::test]
async fn in_production_a_trusted_signature_makes_a_candidate() {
    let keys = Keys::new();
    let mut here = following("production", &keys, "").await;
    let one = version(1).component();
    here.put(FILE, &one);
    let event = here.expect("plugin_rejected").await;
    assert_eq!(event.payload.value()["code"], "P104");
    here.put(SIGNATURE, keys.sign(&one).as_bytes());
    let event = here.expect("plugin_loaded").await;
    assert_eq!(event.payload.value()["state"], "candidate");
    assert_eq!(here.serving("guest"), None);
    assert_eq!(here.listed("guest").candidates.len(), 1);
}
