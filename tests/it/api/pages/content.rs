//! What each page says of a host that has done something.

use serde_json::json;

use super::super::examples::lived_in;
use super::super::harness::TestApi;
use super::page;

async fn id_of(api: &TestApi, trace: &str) -> String {
    let listing = api.get(&format!("/api/tasks?trace={trace}")).await.json();
    listing["tasks"][0]["id"].as_str().unwrap().to_owned()
}

fn holds(html: &str, parts: &[&str]) {
    for part in parts {
        assert!(html.contains(part), "`{part}` is not in: {html}");
    }
}

#[tokio::test]
async fn the_overview_says_how_the_host_stands() {
    let api = lived_in().await;
    let html = page(&api, "/").await;
    holds(
        &html,
        &[
            "<strong>Attention:</strong>",
            "plugin broken was refused: P110: not a component",
            "code/build-test",
            "obedient 1.2.3",
            r#"<span class="badge quiet">mock</span>"#,
            "failure_rate",
            "needs 18 more samples",
            "buildtest_done",
            "data-after=",
        ],
    );
    *api.facts.not_ready.lock() = Some("no room".to_owned());
    let html = page(&api, "/").await;
    holds(&html, &["<strong>Not working:</strong> disk: no room"]);
}

#[tokio::test]
async fn the_list_of_tasks_is_narrowed_and_goes_on() {
    let api = lived_in().await;
    let html = page(&api, "/ui/tasks").await;
    holds(
        &html,
        &[
            ">all <span class=\"count\">3</span>",
            "told to fail",
            "good",
            "bad",
            "idle",
        ],
    );
    let failed = page(&api, "/ui/tasks?status=failed&route=&trace=&task_id=").await;
    assert!(failed.contains("told to fail") && !failed.contains("/ui/traces/good"));
    let one = page(&api, "/ui/tasks?limit=1").await;
    holds(
        &one,
        &["1 shown, newest first.", "href=\"/ui/tasks?limit=100\""],
    );
    let none = page(&api, "/ui/tasks?task_id=unheard-of").await;
    holds(&none, &["No task matches.", "cogo-host submit"]);
}

#[tokio::test]
async fn a_task_tells_its_story() {
    let api = lived_in().await;
    let good = page(&api, &format!("/ui/tasks/{}", id_of(&api, "good").await)).await;
    holds(
        &good,
        &[
            r#"<span class="badge good">done</span>"#,
            "Attempt 1",
            "obedient 1.2.3",
            "hello",
            "64.0 KiB",
            "cogo-host task retry",
            "&#34;passed&#34;: true",
            "&#34;repo&#34;: &#34;.&#34;",
        ],
    );
    let bad = page(&api, &format!("/ui/tasks/{}", id_of(&api, "bad").await)).await;
    holds(
        &bad,
        &["Last error", "no_way", "told to fail", "blame: guest"],
    );
    let idle = page(&api, &format!("/ui/tasks/{}", id_of(&api, "idle").await)).await;
    holds(
        &idle,
        &[
            "Why it is not done yet",
            "is due at",
            "No attempt has ended yet.",
            "cogo-host task cancel",
        ],
    );
}

#[tokio::test]
async fn a_task_that_runs_says_who_has_it_and_how_far_it_is() {
    let api = TestApi::start().await;
    let id = api.submit(json!({ "payload": { "do": "hang" } })).await;
    api.hangs(&id).await;
    let html = page(&api, &format!("/ui/tasks/{id}")).await;
    holds(
        &html,
        &["lease held by test-host:", "s left", "50 %", "half of it"],
    );
}

#[tokio::test]
async fn a_payload_that_is_long_is_cut_and_says_where_the_rest_is() {
    let api = TestApi::start().await;
    let payload = json!({ "text": "y".repeat(100_000), "do": "fail" });
    let id = api
        .submit(json!({ "trace_id": "long", "payload": payload }))
        .await;
    let _ = api.until("long", "execute_failed").await;
    let html = page(&api, &format!("/ui/tasks/{id}")).await;
    assert!(html.len() < 40_000, "{}", html.len());
    holds(
        &html,
        &[
            "Cut: this is the beginning of 97.",
            &format!("href=\"/api/tasks/{id}\""),
        ],
    );
}

#[tokio::test]
async fn a_trace_is_drawn_and_judged() {
    let api = lived_in().await;
    let html = page(&api, "/ui/traces/good").await;
    holds(
        &html,
        &[
            "<svg viewBox",
            "attempt 1 · obedient",
            "http 200",
            "tests_passed",
            "execute_done",
            "Gate over this trace",
        ],
    );
}

#[tokio::test]
async fn plugins_tell_what_serves_and_what_was_refused() {
    let api = TestApi::start().await;
    let html = page(&api, "/ui/plugins").await;
    holds(
        &html,
        &[
            "obedient",
            "P110: not a component",
            "copy or build it again",
            "plugins/Broken.wasm",
            "rename the file",
            "3 in service, 2 refused, 1 put back",
            "rolled back",
            "taken for down",
        ],
    );
}

#[tokio::test]
async fn rollouts_show_steps_approvals_and_what_steers_them() {
    let api = TestApi::start().await;
    let digest = cogo_host::ids::Digest::of(b"candidate");
    let order = json!({
        "route": "code/build-test", "candidate": format!("obedient@{digest}"),
        "steps": [5, 100], "interval_ms": 600_000, "reason": "reads <larger> answers",
    });
    let started = api.post("/api/rollouts", &order).await.json();
    let id = started["id"].as_str().unwrap();
    let approve = json!({ "route": "code/build-test", "reason": "worker down", "ttl_ms": 60_000 });
    let approval = api.post("/api/approvals", &approve).await.json();
    let html = page(&api, "/ui/rollouts").await;
    holds(
        &html,
        &[
            id,
            "waiting",
            "5 %",
            "reads &#60;larger&#62; answers",
            &format!("cogo-host rollout abort --reason WHY {id}"),
            approval["id"].as_str().unwrap(),
            "worker down",
            "in force",
            "cogo-host fallback revoke",
        ],
    );
    holds(
        &page(&api, &format!("/ui/rollouts/{id}")).await,
        &[id, "Each step"],
    );
}

#[tokio::test]
async fn events_are_newest_first_and_narrowed() {
    let api = lived_in().await;
    let html = page(&api, "/ui/events").await;
    let rows = html.split("<tbody>").nth(1).unwrap();
    let (last, earlier) = (rows.find("execute_enqueued"), rows.find("execute_failed"));
    assert!(last < earlier, "the last that happened was enqueued");
    let failed = page(&api, "/ui/events?type=execute_failed").await;
    let table = failed.split("<tbody>").nth(1).unwrap();
    assert!(table.contains("execute_failed") && !table.contains("execute_done"));
    holds(
        &failed,
        &["GET /api/metrics/bus/events?type=execute_failed"],
    );
}

#[tokio::test]
async fn an_empty_bus_says_the_next_command() {
    let api = TestApi::start().await;
    for path in ["/", "/ui/tasks", "/ui/events", "/ui/rollouts"] {
        let html = page(&api, path).await;
        let empty = html.split("class=\"empty\"").nth(1).unwrap();
        assert!(empty.contains("cogo-host "), "{path}");
    }
}

#[tokio::test]
async fn pages_stay_small_whatever_is_on_the_bus() {
    let api = TestApi::start().await;
    for n in 0..120 {
        let task = json!({ "trace_id": "many", "task_id": format!("t{n}"), "delay_ms": 9_999_999 });
        let _ = api.submit(task).await;
    }
    for (path, most) in [
        ("/", 60_000),
        ("/ui/tasks", 80_000),
        ("/ui/tasks?limit=500", 160_000),
        ("/ui/events", 160_000),
        ("/ui/traces/many", 400_000),
    ] {
        let len = page(&api, path).await.len();
        assert!(len < most, "{path} has {len} bytes");
    }
    let listed = page(&api, "/ui/tasks").await;
    assert_eq!(listed.matches("<th scope=\"row\">").count(), 50);
}
