//! TLS as a managed database has it: a certificate by an authority of its own.

use std::path::{Path, PathBuf};

use cogo_host::store::{PostgresStore, Store, StoreError};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use tempfile::TempDir;

use crate::support::hand::{DOCS, Hand, done, task};
use crate::support::postgres::cluster::Cluster;
use crate::support::postgres::open;

/// The server's certificate is for this name alone, which is not how tests
/// reach it otherwise.
const NAME: &str = "localhost";

/// A server with TLS, and the files of two authorities: its own, and one that
/// has nothing to do with it.
struct Secured {
    cluster: Cluster,
    own: PathBuf,
    other: PathBuf,
    _files: TempDir,
}

fn authority() -> (String, Issuer<'static, KeyPair>) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages.push(KeyUsagePurpose::KeyCertSign);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    (certificate.pem(), Issuer::new(params, key))
}

async fn secured() -> Secured {
    let files = tempfile::tempdir().unwrap();
    let (own_pem, issuer) = authority();
    let (other_pem, _) = authority();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new([NAME.to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let own = files.path().join("own.pem");
    let other = files.path().join("other.pem");
    std::fs::write(&own, own_pem).unwrap();
    std::fs::write(&other, other_pem).unwrap();
    let cluster = Cluster::start();
    cluster.create("bus", "template1").await;
    cluster.offer_tls(&certificate.pem(), &key.serialize_pem());
    Secured {
        cluster,
        own,
        other,
        _files: files,
    }
}

impl Secured {
    fn url(&self, host: &str, mode: &str, root: Option<&Path>) -> String {
        let plain = self.cluster.url("bus").replace("127.0.0.1", host);
        let root = root.map(|root| format!("&sslrootcert={}", root.display()));
        format!("{plain}?sslmode={mode}{}", root.unwrap_or_default())
    }

    async fn refusal(&self, host: &str, mode: &str, root: Option<&Path>) -> (String, &'static str) {
        refusal(&self.url(host, mode, root)).await
    }
}

/// What is said, and the cure.
async fn refusal(url: &str) -> (String, &'static str) {
    let error = PostgresStore::open(&url.parse().unwrap())
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::Insecure { .. }), "{error:?}");
    assert!(!error.is_transient());
    (error.to_string(), error.hint())
}

#[tokio::test]
async fn a_bus_behind_tls_is_a_bus_like_any_other() {
    let server = secured().await;
    let full = server.url(NAME, "verify-full", Some(&server.own));
    for url in [
        server.url("127.0.0.1", "require", None),
        server.url("127.0.0.1", "verify-ca", Some(&server.own)),
        full.clone(),
    ] {
        let store = open(&url).await;
        store.migrate(false).await.unwrap();
        store.enqueue(&[task(DOCS)]).await.unwrap();
        let hand = Hand::new();
        let claim = hand.claim_one(&store, DOCS).await;
        hand.end(&store, &claim, done()).await;
    }
    let findings = open(&full).await.examine().await.unwrap();
    let tls = findings.iter().find(|f| f.check.id == "postgres.tls");
    assert!(tls.unwrap().detail.starts_with("TLSv1."), "{tls:?}");
}

#[tokio::test]
async fn a_certificate_that_cannot_be_trusted_is_refused_with_its_cure() {
    let server = secured().await;
    // Somebody else's authority, and none at all.
    for root in [Some(&*server.other), None] {
        let (said, cure) = server.refusal(NAME, "verify-full", root).await;
        assert!(said.contains("signed"), "{said}");
        assert!(cure.contains("sslrootcert"), "{cure}");
    }
    // A named authority counts under `require`, too.
    let (said, _) = server.refusal(NAME, "require", Some(&*server.other)).await;
    assert!(said.contains("signed"), "{said}");
    let (said, cure) = server
        .refusal("127.0.0.1", "verify-full", Some(&*server.own))
        .await;
    assert!(said.contains("another name"), "{said}");
    assert!(cure.contains("verify-ca"), "{cure}");
}

#[tokio::test]
async fn a_server_without_tls_is_not_talked_to_in_the_clear() {
    let url = crate::support::postgres::empty().await;
    for mode in ["require", "verify-full"] {
        let (said, cure) = refusal(&format!("{url}?sslmode={mode}")).await;
        assert!(said.contains("does not offer TLS"), "{said}");
        assert!(cure.contains("ssl = on"), "{cure}");
    }
    let nowhere = "/nonexistent/ca.pem";
    let (said, _) = refusal(&format!("{url}?sslmode=verify-full&sslrootcert={nowhere}")).await;
    assert!(said.contains(nowhere), "{said}");
}
