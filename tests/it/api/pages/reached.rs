//! What pages point at is there: links, API calls, commands.

use std::collections::{BTreeSet, VecDeque};

use reqwest::Method;
use serde_json::json;

use super::super::described::is_described;
use super::super::examples::lived_in;
use super::super::harness::TestApi;
use super::{all_between, browse, page};
use crate::support::process::Installation;

/// A host on which every page has something to show, and all its pages.
async fn visited() -> (TestApi, Vec<(String, String)>) {
    let api = lived_in().await;
    let digest = cogo_host::ids::Digest::of(b"candidate");
    let order = json!({
        "route": "code/build-test", "candidate": format!("obedient@{digest}"),
        "steps": [5, 100], "interval_ms": 600_000, "reason": "it is new",
    });
    assert_eq!(api.post("/api/rollouts", &order).await.status, 201);
    let approve = json!({ "route": "code/build-test", "reason": "down", "ttl_ms": 60_000 });
    assert_eq!(api.post("/api/approvals", &approve).await.status, 201);
    let odd = "-it's%2F$(odd)?#&\"";
    let _ = api
        .submit(json!({ "trace_id": odd, "task_id": odd, "delay_ms": 9_999_999 }))
        .await;
    let mut found: Vec<(String, String)> = Vec::new();
    let mut seen = BTreeSet::from(["/".to_owned()]);
    let mut open = VecDeque::from(["/".to_owned()]);
    while let Some(path) = open.pop_front() {
        let html = page(&api, &path).await;
        for link in all_between(&html, "href=\"", "\"") {
            let is_page = link == "/" || (link.starts_with("/ui/") && !link.contains("/assets/"));
            if is_page && seen.insert(link.clone()) {
                open.push_back(link);
            }
        }
        found.push((path, html));
    }
    (api, found)
}

#[tokio::test]
async fn every_link_leads_somewhere() {
    let (api, pages) = visited().await;
    let paths: Vec<&str> = pages.iter().map(|(path, _)| path.as_str()).collect();
    for kind in [
        "/ui/tasks",
        "/ui/tasks/",
        "/ui/traces/",
        "/ui/rollouts/",
        "/ui/plugins",
        "/ui/events?",
    ] {
        assert!(
            paths.iter().any(|path| path.starts_with(kind)),
            "{kind}: {paths:?}"
        );
    }
    let mut links = BTreeSet::new();
    for (path, html) in &pages {
        for link in all_between(html, "href=\"", "\"") {
            assert!(
                link.starts_with('/') || link == "#main" || link.starts_with("http"),
                "{path}: {link}"
            );
            links.insert(link);
        }
    }
    for link in links
        .iter()
        .filter(|link| link.starts_with('/') && *link != "/api/events")
    {
        let answer = browse(&api, link).await;
        let fine = answer.status == 200 || (link == "/readyz" && answer.status == 503);
        assert!(fine, "{link}: {} {}", answer.status, answer.text());
    }
}

#[tokio::test]
async fn every_api_call_that_is_shown_is_described() {
    let (_api, pages) = visited().await;
    let mut checked = BTreeSet::new();
    for (path, html) in &pages {
        for call in all_between(html, "<code class=\"api\">", "</code>") {
            let (method, target) = call.split_once(' ').unwrap();
            let method: Method = method.parse().unwrap();
            assert!(is_described(&method, target), "{path}: {call}");
            checked.insert(method.to_string());
        }
    }
    assert_eq!(checked, ["GET", "POST", "PUT"].map(str::to_owned).into());
}

/// Typed into a shell as they stand there, where no bus can be reached: what is
/// understood fails for that alone.
#[tokio::test]
async fn every_command_that_is_shown_can_be_typed() {
    let (_api, pages) = visited().await;
    let lines = pages
        .iter()
        .flat_map(|(_, html)| all_between(html, "<code class=\"cli\">", "</code>"));
    // One of each kind: they differ in ids.
    let ids = |word: &str| word.contains('-') && word.bytes().any(|b| b.is_ascii_digit());
    let kind = |line: &str| -> String {
        line.split(' ')
            .map(|word| if ids(word) { "ID" } else { word })
            .collect::<Vec<_>>()
            .join(" ")
    };
    let mut kinds = BTreeSet::new();
    let lines: Vec<String> = lines.filter(|line| kinds.insert(kind(line))).collect();
    assert!(lines.len() > 15, "{lines:?}");
    let here = Installation::new().with("DATABASE_URL", "postgres://127.0.0.1:1/none");
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_cogo-host"));
    let path = format!(
        "{}:{}",
        program.parent().unwrap().display(),
        std::env::var("PATH").unwrap()
    );
    for line in &lines {
        let given = here.command(&[]);
        let given = given
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?)));
        let mut shell = std::process::Command::new("sh");
        shell.env_clear().envs(given).env("PATH", &path);
        let line = line.replace("sha256:DIGEST", &format!("sha256:{}", "0".repeat(64)));
        let line = line.replace("NAME@", "name@");
        let json = line.replacen("cogo-host ", "cogo-host --json ", 1);
        let output = shell
            .args(["-c", &json])
            .current_dir(here.path())
            .output()
            .unwrap();
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(
            !said.contains("\"usage\"") && !said.contains("Usage:"),
            "{line}: {said}"
        );
        assert!(said.contains("\"ok\""), "{line}: {said}");
    }
}
