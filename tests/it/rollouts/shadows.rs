//! Hosts with shadows, as processes: candidates that agree, differ, trap and
//! stall beside tasks that never notice.

use cogo_host::ids::MessageId;
use cogo_host::task::Status;
use serde_json::{Value, json};

use super::hosts::{is_candidate, member, mock, put, ran_on, tasks, work};
use crate::faults::fleet::{Bus, Member, SHORT_LEASE_MS};
use crate::guest::{Guest, Returns};
use crate::operate::versions::marked;
use crate::support::process::{Installation, until};

const ROUTE: &str = "sandbox/run";

/// A version in the name of the mock with this `execute`.
fn version(guest: Guest) -> Vec<u8> {
    let guest = Guest {
        name: "mock".to_owned(),
        version: "9.9.9".to_owned(),
        ..guest
    };
    guest.component()
}

fn staged(bus: &Bus) -> Member {
    let host = member("one", &bus.url).with("GATE_MIN_SAMPLES", "5");
    // A candidate that stalls must not stall the test.
    let toml = format!("[route.\"{ROUTE}\"]\ndeadline = \"1s\"\n");
    std::fs::write(host.path().join("cogo.toml"), toml).unwrap();
    host.started()
}

fn shadow(host: &Member, digest: &str, more: &[&str]) -> String {
    let candidate = format!("mock@{}", &digest[..20]);
    let args = [
        "shadow",
        "start",
        "--route",
        ROUTE,
        "--candidate",
        &candidate,
        "--reason",
        "a test",
        "--json",
    ];
    let row = host.run(&[&args[..], more].concat()).expect(0).data();
    row["id"].as_str().unwrap().to_owned()
}

fn report(host: &Member, id: &str) -> Value {
    host.run(&["shadow", "report", id, "--json"]).data()
}

/// Tasks one after the other, until so many were compared.
fn until_compared(host: &Member, bus: &Bus, id: &str, enough: u64) -> Vec<MessageId> {
    let mut met = Vec::new();
    until("enough was compared", &mut || {
        met.extend(work(bus, 1));
        let compared = report(host, id)["tally"]["compared"].as_u64().unwrap();
        (compared >= enough).then_some(())
    });
    met
}

/// What a shadow must never touch.
fn untouched(bus: &Bus, met: &[MessageId], stable: &str) {
    for id in met {
        let task = bus.task(*id);
        assert_eq!((task.status, task.attempts), (Status::Done, 1));
        assert_eq!(task.result.unwrap()["exit_code"], 0);
        assert_eq!(ran_on(bus, *id), [stable]);
    }
    for event in ["execute_failed", "execute_retry", "lease_lost"] {
        assert_eq!(bus.count_events(event, None), 0, "{event}");
    }
}

#[test]
fn versions_that_differ_trap_or_stall_change_nothing_but_the_report() {
    let bus = Bus::shared();
    let host = staged(&bus);
    let stable = mock(&host)["serving"]["digest"].clone();
    let stable = stable.as_str().unwrap();
    let exits = Guest::returning(Returns::Sandbox {
        exit_code: 3,
        stdout: String::new(),
    });
    let mut all = Vec::new();
    for (candidate, found) in [
        (marked("alike"), None),
        (version(exits), Some("verdict: passed → failed")),
        (version(Guest::new("unreachable")), Some("plugin_trap")),
        (
            version(Guest::new("(loop $on (br $on)) unreachable")),
            Some("failed (deadline_exceeded)"),
        ),
    ] {
        let digest = put(&host, &candidate);
        is_candidate(&host, &digest);
        let id = shadow(&host, &digest, &[]);
        let met = until_compared(&host, &bus, &id, 5);
        let told = host.run(&["shadow", "report", &id]);
        let view = report(&host, &id);
        let (verdict, agreement) = match found {
            None => ("pass", 1.0),
            Some(_) => ("fail", 0.0),
        };
        assert_eq!(view["agreement"], json!(agreement), "{view}");
        let check = &view["gate"]["checks"][0];
        assert_eq!(
            (&check["name"], &check["verdict"]),
            (&json!("shadow_agreement"), &json!(verdict))
        );
        if let Some(found) = found {
            assert_eq!(told.code, 1, "{}{}", told.stdout, told.stderr);
            assert!(told.stdout.contains(found), "{}", told.stdout);
            let one = &view["sample"].as_array().unwrap()[0];
            let task: MessageId = one["message_id"].as_str().unwrap().parse().unwrap();
            assert_eq!(bus.count_events("shadow_difference", Some(task)), 1);
            let story = host.run(&["trace", one["trace_id"].as_str().unwrap()]);
            let story = story.expect(0).stdout;
            assert!(
                story.contains("shadow_difference") && story.contains(found),
                "{story}"
            );
            assert!(story.contains(&format!("shadow {id}: ")), "{story}");
        }
        // Many at once: what finds no room is dropped, and counted.
        let crowd = work(&bus, 60);
        let total = met.len() + crowd.len();
        until("each task was run again or dropped", &mut || {
            let view = report(&host, &id);
            let dropped = view["row"]["dropped"].as_u64().unwrap();
            (view["tally"]["runs"].as_u64().unwrap() + dropped == total as u64).then_some(())
        });
        let over = host.run(&["shadow", "stop", &id, "--reason", "seen"]);
        let _ = over.expect(0);
        all.extend(met.into_iter().chain(crowd));
        untouched(&bus, &all, stable);
    }
    let after = work(&bus, 5);
    untouched(&bus, &after, stable);
    let listed = host.run(&["shadow", "list"]).expect(0).stdout;
    assert_eq!(listed.matches("ended by").count(), 4, "{listed}");
    bus.check();
}

#[test]
fn a_kill_loses_samples_and_nothing_else() {
    let bus = Bus::shared();
    let lease = SHORT_LEASE_MS.to_string();
    let mut host = member("one", &bus.url)
        .with("RECLAIM_AFTER_MS", &lease)
        .started();
    let digest = put(&host, &marked("alike"));
    is_candidate(&host, &digest);
    let id = shadow(&host, &digest, &["--share", "100"]);
    let tasks = tasks(80);
    bus.submit(&tasks);
    bus.until("some have ended", |rows| {
        rows.iter().any(|row| row.status == Status::Done)
    });
    host.kill();
    host.start();
    bus.until_ended(&tasks);
    for task in &tasks {
        assert_eq!(bus.task(task.id).status, Status::Done);
    }
    // It goes on with what comes after.
    let before = report(&host, &id)["tally"]["runs"].as_u64().unwrap();
    is_candidate(&host, &digest);
    until("the shadow goes on", &mut || {
        work(&bus, 1);
        (report(&host, &id)["tally"]["runs"].as_u64().unwrap() > before).then_some(())
    });
    bus.check();
}

#[test]
fn an_operator_is_told_what_cannot_be_shadowed() {
    let bus = Bus::shared();
    let host = member("one", &bus.url).started();
    let digest = put(&host, &marked("other"));
    is_candidate(&host, &digest);
    let serving = mock(&host)["serving"]["digest"].clone();
    let refused = |route: &str, candidate: &str, code: i32, expected: &str| {
        let args = [
            "shadow",
            "start",
            "--route",
            route,
            "--candidate",
            candidate,
            "--reason",
            "a test",
        ];
        let refused = host.run(&args).expect(code);
        assert!(refused.stderr.contains(expected), "{}", refused.stderr);
    };
    let serving = format!("mock@{}", serving.as_str().unwrap());
    refused(ROUTE, &serving, 2, "candidate_serves");
    refused(ROUTE, "mock@sha256:000000", 4, "candidate_unknown");
    refused("sandbox/none", &serving, 4, ROUTE);
    let none = host.run(&["shadow", "report"]).expect(4);
    assert!(none.stderr.contains("shadow start"), "{}", none.stderr);
    let id = shadow(&host, &digest, &["--side-effects", "allow"]);
    refused(ROUTE, &format!("mock@{digest}"), 2, "shadow_running");
    // Without data nothing passes.
    let _ = host.run(&["shadow", "report"]).expect(3);
    let shown = host.get(&format!("/api/shadows/{id}"));
    assert_eq!(shown["gate"]["verdict"], "inconclusive", "{shown}");
    assert_eq!(shown["row"]["side_effects"], "allow");
    let _ = host.run(&["shadow", "stop"]).expect(0);
    let over = host.run(&["shadow", "stop", &id]).expect(2);
    assert!(over.stderr.contains("shadow_over"), "{}", over.stderr);
    let _ = host.run(&["shadow", "stop", "sh-none"]).expect(4);
    let trace = shown["row"]["trace_id"].as_str().unwrap();
    let told = host.run(&["trace", trace]).expect(0).stdout;
    assert!(
        told.contains("shadow_started") && told.contains("shadow_ended"),
        "{told}"
    );
}

#[test]
fn compare_runs_real_and_mock_for_every_task() {
    let here = Installation::new().with("COGO_RETRY_BASE_MS", "20");
    // The only other executor at hand that does no harm: the mock by another name.
    let directory = here.path().join("plugins");
    std::fs::create_dir_all(&directory).unwrap();
    let exits = Guest {
        name: "real-one".to_owned(),
        ..Guest::returning(Returns::Sandbox {
            exit_code: 3,
            stdout: String::new(),
        })
    };
    std::fs::write(directory.join("real-one.wasm"), exits.component()).unwrap();
    let toml = format!(
        "plugins_dir = \"plugins\"\n[route.\"{ROUTE}\"]\nreal = \"real-one\"\nmock = \"mock\"\n"
    );
    std::fs::write(here.path().join("cogo.toml"), toml).unwrap();
    let host = here.host(&["--compare"]);
    let submit = ["submit", "--service", "sandbox", "--role", "run", "--wait"];
    let payload = ["--payload", r#"{"command":"true"}"#];
    let ended = here.run(&[&submit[..], &payload].concat()).expect(0);
    assert!(
        ended
            .stdout
            .contains("shadow compare: done (exit code 3) by real-one"),
        "{}",
        ended.stdout
    );
    let report = here.run(&["shadow", "report", "compare"]).expect(3);
    assert!(
        report.stdout.contains("differences: verdict 1"),
        "{}",
        report.stdout
    );
    drop(host);
    let staging = Installation::new().with("COGO_STAGE", "staging");
    let refused = staging.run(&["run", "--compare", "--port", "0"]).expect(2);
    assert!(
        refused.stderr.contains("shadow start"),
        "{}",
        refused.stderr
    );
}
