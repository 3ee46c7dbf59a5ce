//! A route that is paused waits on every host, and loses nothing.

use cogo_host::task::Status;
use serde_json::json;

use crate::faults::fleet::{Bus, LONG_LEASE_MS, Member};
use crate::support::hand;
use crate::support::process::{Installation, until};

const ROUTE: &str = hand::BUILD_TEST;

#[test]
fn a_pause_holds_a_route_on_all_hosts_until_it_is_resumed() {
    let bus = Bus::shared();
    let hosts = ["one", "two"].map(|name| Member::new(name, &bus.url, LONG_LEASE_MS).started());
    let paused = hosts[0]
        .run(&[
            "route",
            "pause",
            ROUTE,
            "--reason",
            "the disk is full",
            "--json",
        ])
        .expect(0)
        .data();
    assert_eq!(paused["changed"], true);
    for host in &hosts {
        until("the host knows of the pause", &mut || {
            host.holds()
                .contains("cogo paused it (the disk is full)")
                .then_some(())
        });
    }

    let waiting = hand::tasks(ROUTE, 20);
    bus.submit(&waiting);
    let mut short = hand::task(ROUTE);
    short.payload = json!({ "repo": "r", "__assignment": { "ttl_ms": 1 } });
    bus.submit(std::slice::from_ref(&short));
    // Another route goes on, and a task's time to live counts all the same.
    let others = hand::tasks("codegen/generate", 20);
    bus.submit(&others);
    bus.until_ended(&others);
    bus.until_ended(std::slice::from_ref(&short));
    assert_eq!(bus.task(short.id).status, Status::Failed);
    for task in &waiting {
        let row = bus.task(task.id);
        let state = (row.status, row.attempts, row.lease_epoch);
        assert_eq!(state, (Status::Queued, 0, 0), "{row:?}");
    }

    let resumed = hosts[1].run(&["route", "resume", ROUTE]).expect(0);
    assert!(
        resumed.stdout.contains("is paused no more"),
        "{}",
        resumed.stdout
    );
    bus.until_ended(&waiting);
    for task in &waiting {
        assert_eq!(bus.task(task.id).status, Status::Done);
        assert_eq!(bus.outcomes(task.id), ["done"]);
    }
    assert_eq!(bus.count_events("route_held", None), 1);
    assert_eq!(bus.count_events("route_released", None), 1);
    bus.check();
}

#[test]
fn the_dispatcher_waits_like_a_route() {
    let bus = Bus::shared();
    let dispatcher = "orchestrator/execute";
    let pause = ["route", "pause", dispatcher, "--reason", "a target moves"];
    let host = Member::new("one", &bus.url, LONG_LEASE_MS);
    let _ = host.run(&pause).expect(0);
    let host = host.started();
    let mut order = hand::task(dispatcher);
    order.payload = json!({ "target": ROUTE, "repo": "r" });
    bus.submit(std::slice::from_ref(&order));
    let others = hand::tasks(ROUTE, 20);
    bus.submit(&others);
    bus.until_ended(&others);
    let row = bus.task(order.id);
    assert_eq!((row.status, row.attempts), (Status::Queued, 0), "{row:?}");

    let _ = host.run(&["route", "resume", dispatcher]).expect(0);
    bus.until_ended(std::slice::from_ref(&order));
    assert_eq!(bus.task(order.id).status, Status::Done);
}

#[test]
fn a_route_that_nobody_knows_cannot_be_paused() {
    let bus = Bus::shared();
    let here = Member::new("nobody", &bus.url, LONG_LEASE_MS);
    let refused = here.run(&["route", "pause", "code/buildtest"]).expect(4);
    assert!(
        refused.stderr.contains("error[route_not_found]"),
        "{}",
        refused.stderr
    );
    assert!(
        refused.stderr.contains("code/build-test"),
        "{}",
        refused.stderr
    );
    // What is not paused can be resumed: nothing happens.
    let resumed = here.run(&["route", "resume", "code/buildtest"]).expect(0);
    assert!(
        resumed.stdout.contains("was not paused before"),
        "{}",
        resumed.stdout
    );
}

#[test]
fn a_host_that_ends_when_idle_tells_of_what_it_leaves() {
    let here = Installation::new();
    let _ = here.submit(ROUTE, &["--repo", "."]);
    let _ = here.submit(ROUTE, &["--delay", "1h"]);
    let pause = ["route", "pause", ROUTE, "--reason", "the disk is full"];
    let _ = here.run(&pause).expect(0);
    let run = ["run", "--until-idle", "--port", "0"];

    let told = here.run(&run).expect(3).stdout;
    assert!(told.contains("2 tasks wait on code/build-test"), "{told}");
    assert!(told.contains("the disk is full"), "{told}");
    let told = here.run(&[&run[..], &["--json"]].concat()).expect(3).stdout;
    let last: serde_json::Value = serde_json::from_str(told.lines().last().unwrap()).unwrap();
    assert_eq!(last["schema"], "cogo-host.idle.v1");
    assert_eq!(last["data"]["held"][0]["tasks"], 2);
    assert_eq!(last["data"]["held"][0]["route"], ROUTE);

    let listed = here.run(&["task", "list", "--json"]).expect(0).data();
    let later = listed.as_array().unwrap();
    let later = later.iter().find(|task| !task["retry_at"].is_null());
    let id = later.unwrap()["id"].as_str().unwrap();
    let _ = here.run(&["task", "cancel", id]).expect(0);
    let _ = here.run(&["route", "resume", ROUTE]).expect(0);
    let told = here.run(&run).expect(0).stdout;
    assert!(!told.contains("wait on"), "{told}");
    // Nothing waits on it: that it is held is nobody's concern.
    let _ = here.run(&pause).expect(0);
    let _ = here.run(&run).expect(0);
}
