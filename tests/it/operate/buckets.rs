//! Artifacts in a bucket: a host without a disk of its own for them, a worker
//! that never asks the host, and what happens when the bucket loses something.

use serde_json::json;

use super::pipelines::enforced;
use crate::support::process::{Host, Installation, Worker};
use crate::support::s3::S3;
use crate::whole_path::{project, task};

fn fetch(host: &Host, path: &str) -> (u16, String) {
    let (status, body) = host.get_raw(path);
    let code = serde_json::from_str::<serde_json::Value>(&body).unwrap_or_default();
    let code = code.pointer("/error/code").and_then(|code| code.as_str());
    (status, code.unwrap_or_default().to_owned())
}

#[test]
fn a_run_goes_through_a_bucket_by_signed_links() {
    let root = Installation::new();
    let project = project(root.path(), "pass");
    let worker = Worker::start(root.path(), 0);
    let mut s3 = S3::start();
    let here = Installation::new()
        .with("ENABLE_COGO_WORKER", "true")
        .with("COGO_WORKER_URL", &worker.url);
    let here = s3.keep_artifacts_of(here);
    let host = here.host(&[]);

    let order = json!({ "taskId": "t-1", "spec": "note it", "repo": project });
    let (status, run) = enforced(&host, &order);
    assert_eq!(
        (status, &run["decision"]["verdict"]),
        (200, &json!("pass")),
        "{run:#}"
    );
    // The worker got a link into the bucket, and used it.
    let build_test = task(&here, run["ids"]["build_test"].as_str().unwrap());
    let edits_url = build_test["payload"]["edits_url"].as_str().unwrap();
    assert!(edits_url.starts_with(&s3.endpoint), "{edits_url}");
    let [edits] = s3.linked().try_into().unwrap();
    assert!(edits_url.contains(&edits), "{edits_url}");
    let paths = s3.paths();
    assert_eq!(paths.len(), 2, "edits and report: {paths:?}");
    assert!(
        paths
            .iter()
            .all(|path| path.starts_with("artifacts/staging/cogo/")),
        "{paths:?}"
    );
    assert!(!here.path().join(".cogo/artifacts").exists());
    // The host serves what lies there.
    let served = host.get("/artifacts/t-1/edits.json");
    assert_eq!(served["edits"].as_array().unwrap().len(), 1);

    let path = "/artifacts/t-1/edits.json";
    s3.tamper(&edits, Some("{}"));
    assert_eq!(fetch(&host, path), (500, "artifact_changed".to_owned()));
    s3.tamper(&edits, Some(&"x".repeat(1 << 20)));
    assert_eq!(fetch(&host, path), (500, "artifact_changed".to_owned()));
    s3.tamper(&edits, None);
    assert_eq!(fetch(&host, path), (410, "artifact_gone".to_owned()));
    s3.stop();
    assert_eq!(
        fetch(&host, path),
        (503, "artifacts_unavailable".to_owned())
    );
}

#[test]
fn a_bucket_that_cannot_be_is_told_before_anything_is_claimed() {
    let here = Installation::new().with("ARTIFACTS_BASE", "s3:///x");
    let refused = here.run(&["run"]).expect(2);
    assert!(
        refused.stderr.contains("s3://BUCKET/PREFIX"),
        "{}",
        refused.stderr
    );
    let here = Installation::new().with("ARTIFACTS_LINKS", "signed");
    let refused = here.run(&["run"]).expect(2);
    assert!(
        refused.stderr.contains("ARTIFACTS_BASE"),
        "{}",
        refused.stderr
    );
}
