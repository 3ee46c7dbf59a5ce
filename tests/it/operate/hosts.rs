//! Several hosts: two of one bus see one breaker and share its probes; and a
//! command asks no host of another bus.

use cogo_host::task::{NewTask, Status};
use serde_json::json;

use crate::faults::fleet::{Bus, LONG_LEASE_MS, Member};
use crate::support::hand::{self, BUILD_TEST};
use crate::support::process::{Finished, Installation, Worker, until};
use crate::whole_path::{free_port, project};

fn member(name: &str, bus: &Bus, worker_port: u16) -> Member {
    Member::new(name, &bus.url, LONG_LEASE_MS)
        .with("COGO_STAGE", "production")
        .with("AGENT_SERVICE", "code")
        .with("COGO_HOST_TOKEN", "0123456789abcdef")
        .with(
            "COGO_WORKER_URL",
            &format!("http://127.0.0.1:{worker_port}"),
        )
        .with("COGO_PROBE_AFTER_MS", "200")
        // The worker takes no more than two at once.
        .with("COGO_CONCURRENCY", "1")
        .started()
}

#[test]
fn a_breaker_is_opened_probed_and_closed_by_one_host_at_a_time() {
    let root = Installation::new();
    let project = project(root.path(), "pass");
    let port = free_port();
    let bus = Bus::shared();
    let hosts = ["one", "two"].map(|name| member(name, &bus, port));
    let tasks: Vec<NewTask> = hand::tasks(BUILD_TEST, 8)
        .into_iter()
        .map(|task| NewTask {
            payload: json!({ "repo": project }),
            ..task
        })
        .collect();
    bus.submit(&tasks);
    for host in &hosts {
        until("the host holds the route", &mut || {
            host.holds().contains("its real path is down").then_some(())
        });
    }
    let probes = "SELECT count(*) FROM executor_attempts WHERE outcome = 'probe'";
    until("three probes have failed", &mut || {
        (bus.numbers(probes)[0] >= 3).then_some(())
    });
    let _worker = Worker::start(root.path(), port);
    bus.until_ended(&tasks);
    for task in &tasks {
        let row = bus.task(task.id);
        assert_eq!(row.status, Status::Done, "{row:?}");
        assert_eq!(row.result.unwrap()["kind"], "real");
    }
    for host in &hosts {
        until("the host holds nothing", &mut || {
            (host.holds() == "no route is held").then_some(())
        });
    }
    for event in [
        "breaker_opened",
        "route_held",
        "breaker_closed",
        "route_released",
    ] {
        assert_eq!(bus.count_events(event, None), 1, "{event}");
    }
    // One at a time, and each another task's.
    let overlapping = "
        SELECT count(*)
        FROM executor_attempts AS a
        JOIN executor_attempts AS b
          ON a.claimed_at < b.claimed_at AND b.claimed_at < a.ended_at
        WHERE a.why ->> 'probe' = 'true' AND b.why ->> 'probe' = 'true'";
    assert_eq!(bus.numbers(overlapping), [0]);
    let same_again = "
        SELECT count(*)
        FROM (
          SELECT message_id, lag(message_id) OVER (ORDER BY claimed_at) AS before
          FROM executor_attempts
          WHERE why ->> 'probe' = 'true'
        ) AS probe
        WHERE message_id = before";
    assert_eq!(bus.numbers(same_again), [0]);
    bus.check();
}

#[test]
fn a_command_asks_only_a_host_of_its_own_bus() {
    let [bus, other] = [Bus::shared(), Bus::shared()];
    let host = Member::new("one", &bus.url, LONG_LEASE_MS).started();
    let now_known = |listed: Finished| {
        let routes = listed.expect(0).data();
        let routes = routes.as_array().unwrap().clone();
        assert!(!routes.is_empty());
        let known = routes.iter().filter(|route| route["now"].is_object());
        known.count() == routes.len()
    };
    assert!(now_known(host.ask(&["route", "list", "--json"])));
    // Its settings lead to the same address, and to another bus.
    let stranger = Member::new("two", &other.url, LONG_LEASE_MS).with("PORT", host.port());
    assert!(!now_known(stranger.run(&["route", "list", "--json"])));
    let refused = stranger
        .run(&["plugin", "rollback", "mock", "--json"])
        .expect(6);
    assert_eq!(refused.json()["error"]["code"], "no_host");
}
