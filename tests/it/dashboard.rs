//! The dashboard of a running host in a real browser: nothing of what anybody
//! wrote runs, nothing breaks the rules that the pages are sent with, and a page
//! keeps itself up to date.

use serde_json::json;

use crate::support::browser::Browser;
use crate::support::process::{Host, Installation};

/// Would say so if any of it ran.
const HOSTILE: &str = r#"</pre><script>window.ran=1</script><img src=x onerror="window.ran=1"><svg onload="window.ran=1"><a href="javascript:window.ran=1">x</a>"#;

/// A host with a task whose payload, label and error are hostile; the task's id.
fn with_hostile_task(here: &Installation, host: &Host) -> String {
    let mock = json!({ "behaviour": "permanent", "code": "mock_bad", "message": HOSTILE });
    let payload = json!({ "repo": HOSTILE, "mock": mock, HOSTILE: HOSTILE }).to_string();
    let task = here.run(&[
        "submit",
        "--json",
        "--wait",
        "--service",
        "code",
        "--role",
        "build-test",
        "--task-id",
        HOSTILE,
        "--trace-id",
        "hostile",
        "--payload",
        &payload,
    ]);
    let _ = task.expect(1);
    let listed = host.get("/api/tasks?trace=hostile");
    listed["tasks"][0]["id"].as_str().unwrap().to_owned()
}

#[test]
fn nothing_hostile_runs_and_no_rule_is_broken() {
    let here = Installation::new();
    let host = here.host(&[]);
    let id = with_hostile_task(&here, &host);
    let mut browser = Browser::start();
    let task = format!("/ui/tasks/{id}");
    let paths = [
        "/",
        "/ui/tasks",
        &task,
        "/ui/traces/hostile",
        "/ui/plugins",
        "/ui/rollouts",
        "/ui/events",
        "/ui/none",
    ];
    for width in [390, 1280] {
        let metrics =
            json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false });
        browser.call("Emulation.setDeviceMetricsOverride", metrics);
        for path in paths {
            browser.open(&format!("{}{path}", host.api));
            let shown = browser.evaluate("document.querySelector('main h1').textContent");
            assert!(!shown.as_str().unwrap().is_empty(), "{path}");
            let needed = browser.evaluate("document.documentElement.scrollWidth");
            assert!(
                needed.as_u64().unwrap() <= width,
                "{path} needs {needed} of {width}"
            );
            assert!(browser.evaluate("window.ran").is_null(), "{path} ran it");
            let unnamed = browser.evaluate(UNNAMED);
            assert_eq!(unnamed, json!([]), "{path}");
        }
    }
    // What is not there is said so by status, too.
    let complaints = browser.complaints(&host.api);
    let missing = |complaint: &String| complaint.contains("404") && complaint.contains("/ui/none");
    let complaints: Vec<_> = complaints.iter().filter(|c| !missing(c)).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
}

/// What a screen reader has no name for, and headings that skip a level.
const UNNAMED: &str = r#"(() => {
  const named = (e) => e.textContent.trim() || e.getAttribute("aria-label");
  const bare = [...document.querySelectorAll("a, button, summary, th, [role=region]")];
  const fields = [...document.querySelectorAll("main input:not([type=hidden])")];
  const found = bare.filter((e) => !named(e)).concat(fields.filter((e) => !e.labels.length));
  const levels = [...document.querySelectorAll("main :is(h1, h2, h3)")].map((e) => +e.localName[1]);
  const skips = levels.filter((level, at) => at && level > levels[at - 1] + 1);
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  const twice = ids.filter((id, at) => ids.indexOf(id) !== at);
  return found.map((e) => e.outerHTML).concat(skips.map(String), twice);
})()"#;

#[test]
fn a_page_keeps_itself_up_to_date_and_survives_its_host() {
    let here = Installation::new();
    let mut host = here.host(&[]);
    let mut browser = Browser::start();
    browser.open(&format!("{}/ui/tasks", host.api));
    let shown =
        browser.comes_true("document.querySelector('main').textContent.includes('made-later')");
    let _ = here.submit(
        "code/build-test",
        &["--payload", "{}", "--task-id", "made-later"],
    );
    assert_eq!(shown.kept(&mut browser), true);

    let port = host.api.rsplit(':').next().unwrap().to_owned();
    let away = browser
        .comes_true("document.getElementById('notice').textContent.includes('cannot be reached')");
    host.process.kill();
    assert_eq!(away.kept(&mut browser), true);
    let still =
        browser.evaluate("document.querySelector('main').textContent.includes('made-later')");
    assert_eq!(still, true);
    let back = browser.comes_true("document.getElementById('notice').textContent === ''");
    let _host = here.host(&["--port", &port]);
    assert_eq!(back.kept(&mut browser), true);
    let shown =
        browser.comes_true("document.querySelector('main').textContent.includes('made-at-last')");
    let _ = here.submit(
        "code/build-test",
        &["--payload", "{}", "--task-id", "made-at-last"],
    );
    assert_eq!(shown.kept(&mut browser), true);
}

#[test]
fn keys_lead_around() {
    let here = Installation::new();
    let host = here.host(&[]);
    let mut browser = Browser::start();
    browser.open(&format!("{}/", host.api));
    browser.press(&["g", "e"]);
    browser.loaded();
    assert_eq!(browser.evaluate("location.pathname"), "/ui/events");
    browser.press(&["/"]);
    assert_eq!(browser.evaluate("document.activeElement.name"), "type");
    browser.evaluate("document.activeElement.blur()");
    browser.press(&["?"]);
    assert_eq!(
        browser.evaluate("document.getElementById('keys').open"),
        true
    );
    assert_eq!(browser.complaints(&host.api), Vec::<String>::new());
}
