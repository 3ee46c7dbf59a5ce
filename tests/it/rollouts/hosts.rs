//! Hosts that roll a version out, as processes: what an operator types, what the
//! tasks run on, and what the bus tells of it afterwards.

use std::fs;

use cogo_host::ids::{Digest, MessageId};
use cogo_host::rollout::{Draw, Share};
use cogo_host::selection::Side;
use cogo_host::task::{NewTask, Status};
use serde_json::{Value, json};

use crate::faults::fleet::{Bus, LONG_LEASE_MS, Member};
use crate::guest::{Guest, Returns};
use crate::operate::versions::{marked, marked_of};
use crate::support::hand;
use crate::support::process::until;

const ROUTE: &str = "sandbox/run";

pub(super) fn member(name: &str, url: &str) -> Member {
    Member::new(name, url, LONG_LEASE_MS)
        .with("COGO_STAGE", "staging")
        .with("AGENT_SERVICE", "sandbox")
        .with("COGO_HOST_TOKEN", "0123456789abcdef")
        .with("COGO_PLUGINS_DIR", "plugins")
        .with("COGO_PLUGINS_QUIET_MS", "20")
}

/// Puts a version of the mock into the directory of a host, where it waits as a
/// candidate.
pub(super) fn put(host: &Member, bytes: &[u8]) -> String {
    put_as(host, "mock", bytes)
}

/// The same for any plugin.
fn put_as(host: &Member, name: &str, bytes: &[u8]) -> String {
    let directory = host.path().join("plugins");
    fs::create_dir_all(&directory).unwrap();
    let file = directory.join(format!("{name}.wasm"));
    let draft = file.with_extension("wasm.draft");
    fs::write(&draft, bytes).unwrap();
    fs::rename(&draft, file).unwrap();
    Digest::of(bytes).to_string()
}

pub(super) fn mock(host: &Member) -> Value {
    plugin(host, "mock")
}

fn plugin(host: &Member, name: &str) -> Value {
    let listing = host.get("/api/plugins");
    let plugins = listing["plugins"].as_array().unwrap();
    let found = plugins.iter().find(|plugin| plugin["name"] == name);
    found.unwrap().clone()
}

pub(super) fn is_candidate(host: &Member, digest: &str) {
    is_candidate_of(host, "mock", digest);
}

fn is_candidate_of(host: &Member, name: &str, digest: &str) {
    until("the version is a candidate", &mut || {
        let plugin = plugin(host, name);
        let candidates = plugin["candidates"].as_array().unwrap().iter();
        let mut found = candidates.map(|candidate| &candidate["digest"]);
        found.any(|found| found == digest).then_some(())
    });
}

fn serves(host: &Member, digest: &str) {
    until("the version serves", &mut || {
        (mock(host)["serving"]["digest"] == digest).then_some(())
    });
}

/// A plugin that fails at every task, in the name of the mock.
fn bad() -> Vec<u8> {
    let guest = Guest {
        name: "mock".to_owned(),
        version: "9.9.9".to_owned(),
        ..Guest::returning(Returns::Retryable {
            code: "broken".to_owned(),
            message: "this version never works".to_owned(),
            after_ms: None,
        })
    };
    guest.component()
}

pub(super) fn tasks(n: usize) -> Vec<NewTask> {
    let plain = hand::tasks(ROUTE, n).into_iter();
    let tasks = plain.map(|task| NewTask {
        payload: json!({ "command": "true" }),
        ..task
    });
    tasks.collect()
}

/// Puts tasks on the bus and waits for their ends.
pub(super) fn work(bus: &Bus, n: usize) -> Vec<MessageId> {
    let tasks = tasks(n);
    bus.submit(&tasks);
    bus.until_ended(&tasks);
    tasks.iter().map(|task| task.id).collect()
}

fn start(host: &Member, digest: &str, steps: &str, interval: &str) -> Value {
    let candidate = format!("mock@{}", &digest[..20]);
    let args = [
        "rollout",
        "start",
        "--route",
        ROUTE,
        "--candidate",
        &candidate,
        "--steps",
        steps,
        "--interval",
        interval,
        "--reason",
        "a test",
        "--json",
    ];
    host.run(&args).expect(0).data()
}

fn status(host: &Member) -> Value {
    host.run(&["rollout", "status", "--json"]).data()
}

fn until_state(host: &Member, state: &str) -> Value {
    until(&format!("the rollout is {state}"), &mut || {
        let status = status(host);
        (status["state"] == state).then_some(status)
    })
}

/// The digests that a task's attempts ran on.
pub(super) fn ran_on(bus: &Bus, id: MessageId) -> Vec<String> {
    let attempts = bus.attempts(id).into_iter();
    attempts
        .filter_map(|a| a.digest)
        .map(|d| d.to_string())
        .collect()
}

#[test]
fn a_good_candidate_is_promoted_by_two_hosts_that_agree() {
    let bus = Bus::shared();
    let mut hosts = ["one", "two"].map(|name| member(name, &bus.url).started());
    let stable = mock(&hosts[0])["serving"]["digest"]
        .as_str()
        .unwrap()
        .to_owned();
    let candidate = put(&hosts[0], &marked("better"));
    is_candidate(&hosts[0], &candidate);
    let row = start(&hosts[0], &candidate, "50,100", "1s");
    assert_eq!(row["state"], "waiting", "{row}");
    assert_eq!(row["stable"], stable.as_str());
    assert_eq!(row["candidate"], candidate.as_str());
    let trace = row["trace_id"].as_str().unwrap();

    // As long as a host lacks it, nobody's task gets it.
    for id in work(&bus, 10) {
        assert_eq!(ran_on(&bus, id), [stable.as_str()]);
    }
    let waiting = hosts[1].run(&["rollout", "status"]).expect(3);
    assert!(
        waiting
            .stdout
            .contains("host two: does not have the candidate yet")
            && waiting.stdout.contains("host one: ready"),
        "{}",
        waiting.stdout
    );
    put(&hosts[1], &marked("better"));
    // No data: the step stays.
    let held = until_state(&hosts[0], "held");
    assert_eq!((&held["step"], &held["share"]), (&json!(0), &json!(50)));
    assert_eq!(held["gate"]["verdict"], "inconclusive");

    // Whoever drove it dies; it goes on all the same, after a restart, too.
    for host in &mut hosts {
        host.kill();
    }
    for host in &mut hosts {
        host.start();
        is_candidate(host, &candidate);
    }
    assert_eq!(status(&hosts[1])["state"], "held");
    until("it is promoted", &mut || {
        work(&bus, 40);
        (status(&hosts[0])["state"] == "promoted").then_some(())
    });
    for host in &hosts {
        serves(host, &candidate);
        assert_eq!(host.run(&["rollout", "status", "--watch"]).code, 0);
    }
    for id in work(&bus, 10) {
        assert_eq!(ran_on(&bus, id), [candidate.as_str()]);
    }
    // Each change was made once, whoever made it.
    for (event, times) in [
        ("rollout_started", 1),
        ("rollout_step", 2),
        ("rollout_promoted", 1),
        ("rollout_rolled_back", 0),
        ("plugin_promoted", 1),
    ] {
        assert_eq!(bus.count_events(event, None), times, "{event}");
    }
    let told = hosts[1].run(&["trace", trace]).expect(0);
    assert!(told.stdout.contains("rollout_promoted"), "{}", told.stdout);
    // What serves outlives whoever decided it.
    hosts[0].drain();
    hosts[0].start();
    serves(&hosts[0], &candidate);
    bus.check();
}

#[test]
fn a_bad_candidate_reaches_its_share_and_no_further() {
    let bus = Bus::shared();
    let host = member("one", &bus.url).started();
    let stable = mock(&host)["serving"]["digest"]
        .as_str()
        .unwrap()
        .to_owned();
    let candidate = put(&host, &bad());
    is_candidate(&host, &candidate);
    // It does not wait for the interval.
    let row = start(&host, &candidate, "20,100", "1h");
    let id = row["id"].as_str().unwrap().to_owned();
    until_state(&host, "step");

    // Those that it fails wait for their turn on stable.
    let tasks = tasks(200);
    bus.submit(&tasks);
    until_state(&host, "rolled_back");
    bus.until_ended(&tasks);
    let met: Vec<MessageId> = tasks.iter().map(|task| task.id).collect();
    let status = host.run(&["rollout", "status", &id]).expect(1);
    assert!(
        status.stdout.contains("failures_against_stable"),
        "{}",
        status.stdout
    );
    assert_eq!(host.run(&["rollout", "promote", &id]).code, 2);

    let draw = Draw {
        rollout: id.parse().unwrap(),
        share: Share::try_from(20).unwrap(),
    };
    let mut reached = 0;
    for id in &met {
        assert_eq!(bus.task(*id).status, Status::Done);
        if ran_on(&bus, *id).contains(&candidate) {
            reached += 1;
            assert_eq!(draw.side(*id), Side::Candidate);
        }
    }
    let drawn = met.iter().filter(|id| draw.side(**id) == Side::Candidate);
    assert!(reached > 0 && reached <= drawn.count(), "{reached}");
    for id in work(&bus, 30) {
        assert_eq!(ran_on(&bus, id), [stable.as_str()]);
    }
    assert_eq!(mock(&host)["serving"]["digest"], stable.as_str());
    assert_eq!(bus.count_events("rollout_rolled_back", None), 1);
    assert_eq!(bus.count_events("rollout_promoted", None), 0);
    bus.check();
}

#[test]
fn an_operator_starts_steers_and_ends_a_rollout() {
    let bus = Bus::shared();
    let host = member("one", &bus.url).started();
    let candidate = put(&host, &marked("other"));
    is_candidate(&host, &candidate);

    let refused = |route: &str, candidate: &str, steps: &str, code: i32, expected: &str| {
        let args = [
            "rollout",
            "start",
            "--route",
            route,
            "--candidate",
            candidate,
            "--steps",
            steps,
            "--reason",
            "a test",
        ];
        let refused = host.run(&args).expect(code);
        assert!(refused.stderr.contains(expected), "{}", refused.stderr);
    };
    let version = format!("mock@{candidate}");
    let serving = mock(&host)["serving"]["digest"]
        .as_str()
        .unwrap()
        .to_owned();
    refused(ROUTE, &version, "50,25", 2, "the steps do not rise");
    refused(ROUTE, "mock@sha256:000000", "50", 4, "candidate_unknown");
    refused(ROUTE, "mock@sha256:000000", "50", 4, &candidate);
    refused(ROUTE, "mock", "50", 2, "candidate_invalid");
    refused(
        ROUTE,
        &format!("mock@{serving}"),
        "50",
        2,
        "candidate_serves",
    );
    refused(ROUTE, &format!("other@{candidate}"), "50", 2, "there are: ");
    refused("sandbox/none", &version, "50", 4, ROUTE);
    let none = host.run(&["rollout", "status"]).expect(4);
    assert!(none.stderr.contains("rollout start"), "{}", none.stderr);

    let row = start(&host, &candidate, "1,2", "1h");
    let id = row["id"].as_str().unwrap();
    refused(ROUTE, &version, "50", 2, "rollout_running");
    until_state(&host, "step");
    let act = |action: &str| {
        let args = ["rollout", action, "--reason", "as told", "--json"];
        host.run(&args).expect(0).data()
    };
    assert_eq!(act("pause")["state"], "paused");
    assert_eq!(host.run(&["rollout", "pause"]).code, 2);
    assert_eq!(act("resume")["state"], "step");
    let promoted = act("promote");
    assert_eq!(
        (&promoted["state"], &promoted["step"]),
        (&json!("step"), &json!(1))
    );
    let shown = host.run(&["rollout", "status"]).expect(3).stdout;
    assert!(
        shown.contains("✓   1 %") && shown.contains("●   2 %"),
        "{shown}"
    );
    let routes = host.get("/api/routes");
    let decided = &routes["routes"].as_array().unwrap()[0]["decided"];
    assert_eq!(decided["rollout"]["id"], id, "{routes}");
    let told = host.run(&["trace", row["trace_id"].as_str().unwrap()]);
    let told = told.expect(0).stdout;
    assert!(told.contains("rollout_step at 2 %"), "{told}");
    assert_eq!(act("abort")["state"], "aborted");
    let _ = host.run(&["rollout", "status", id]).expect(1);
    let listed = host.run(&["rollout", "list"]).expect(0).stdout;
    assert!(
        listed.contains(id) && listed.contains("aborted by"),
        "{listed}"
    );
    let view = host.get(&format!("/api/rollouts/{id}"));
    assert_eq!(view["state"], "aborted", "{view}");
    assert_eq!(bus.count_events("rollout_aborted", None), 1);
}

/// Gates would find out only after the fact that nothing real ran any more.
#[test]
fn a_candidate_that_counts_as_mock_does_not_replace_what_is_real() {
    const REAL: &str = "code/build-test";
    let bus = Bus::shared();
    let mut host = member("one", &bus.url)
        .with("AGENT_SERVICE", "code")
        .with("COGO_WORKER_URL", "http://127.0.0.1:9")
        .started();
    let candidate = put_as(&host, "cogo-worker", &marked_of("cogo-worker", "newer"));
    is_candidate_of(&host, "cogo-worker", &candidate);
    let version = format!("cogo-worker@{candidate}");
    let begin = |host: &Member, verb: &str| {
        let args = [verb, "start", "--route", REAL, "--candidate", &version];
        host.run(&[&args[..], &["--reason", "a test"]].concat())
    };
    let refused = begin(&host, "rollout").expect(2).stderr;
    for said in [
        "candidate_counts_as_mock",
        "`cogo-worker` serves as real",
        "`[plugin.cogo-worker]`",
        "kind = \"real\"",
    ] {
        assert!(refused.contains(said), "{refused}");
    }
    assert_eq!(bus.count_events("rollout_started", None), 0);
    // What is never returned may count as it likes.
    assert_eq!(begin(&host, "shadow").code, 0);
    let stopped = host.run(&["shadow", "stop", "--reason", "a test"]);
    assert_eq!(stopped.code, 0, "{}", stopped.stderr);

    host.drain();
    let toml = "[plugin.cogo-worker]\nkind = \"real\"\n";
    fs::write(host.path().join("cogo.toml"), toml).unwrap();
    host.start();
    is_candidate_of(&host, "cogo-worker", &candidate);
    assert_eq!(begin(&host, "rollout").code, 0);
}
