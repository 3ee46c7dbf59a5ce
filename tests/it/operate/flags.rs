//! A flag that is set on the bus moves a route at once, and loses nothing.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::support::process::{Installation, Worker};
use crate::whole_path::{ended, project, submit};

const ROUTE: &str = "code/build-test";

fn set(here: &Installation, to: &str) -> Value {
    let args = ["flag", "set", ROUTE, to, "--reason", "a test", "--json"];
    here.run(&args).expect(0).data()
}

#[test]
fn flags_flip_under_load_and_nothing_is_lost() {
    let root = Installation::new();
    let project = project(root.path(), "pass");
    let worker = Worker::start(root.path(), 0);
    let here = Installation::new()
        .with("COGO_WORKER_URL", &worker.url)
        // The worker takes no more at once.
        .with("COGO_CONCURRENCY", "2");
    let _host = here.host(&[]);

    let mut ids = Vec::new();
    for to in ["on", "off", "on", "default"] {
        let done = set(&here, to);
        // The host that answers follows it already.
        let path = done["now"]["why"]["path"].as_str().unwrap();
        assert_eq!(path, if to == "on" { "real" } else { "mock" }, "{done}");
        for _ in 0..5 {
            let submitted = submit(&here, &project, &[]);
            ids.push((
                submitted["id"].as_str().unwrap().to_owned(),
                path.to_owned(),
            ));
        }
    }
    let mut ran: BTreeMap<String, usize> = BTreeMap::new();
    for (id, _) in &ids {
        let shown = ended(&here, id);
        assert_eq!(shown["status"], "done", "{shown}");
        assert_eq!(shown["result"]["fallback"], false);
        let history = shown["history"].as_array().unwrap();
        assert_eq!(history.len(), 1, "{shown}");
        let path = history[0]["why"]["path"].as_str().unwrap();
        let plugin = if path == "real" {
            "cogo-worker"
        } else {
            "mock"
        };
        assert_eq!(history[0]["plugin"], plugin);
        *ran.entry(path.to_owned()).or_default() += 1;
    }
    assert!(ran["real"] > 0 && ran["mock"] > 0, "{ran:?}");
    let again = set(&here, "default");
    assert_eq!(again["changed"], false);
    let off = set(&here, "off");
    let trace = here
        .run(&["trace", off["trace_id"].as_str().unwrap()])
        .expect(0);
    assert!(
        trace
            .stdout
            .contains("flag_changed to off by local: a test"),
        "{}",
        trace.stdout
    );
    let listed = here.run(&["flag", "list"]).expect(0).stdout;
    assert!(listed.contains(ROUTE), "{listed}");
}

#[test]
fn a_flag_that_turns_on_what_cannot_run_is_refused() {
    // With a host, and without one.
    let here = Installation::new();
    let refuse = || {
        let refused = here.run(&["flag", "set", ROUTE, "on"]);
        assert_ne!(refused.code, 0);
        assert!(
            refused.stderr.contains("error[plugin_not_configured]")
                && refused.stderr.contains("COGO_WORKER_URL is not set"),
            "{}",
            refused.stderr
        );
    };
    refuse();
    let host = here.host(&[]);
    refuse();
    let unknown = here.run(&["flag", "set", "code/nothing", "off"]).expect(4);
    assert!(unknown.stderr.contains(ROUTE), "{}", unknown.stderr);
    assert_eq!(host.holds(), "no route is held");
}

#[test]
fn a_flag_survives_the_host_and_beats_its_configuration() {
    let root = Installation::new();
    let project = project(root.path(), "pass");
    let worker = Worker::start(root.path(), 0);
    let here = Installation::new()
        .with("COGO_WORKER_URL", &worker.url)
        .with("ENABLE_COGO_WORKER", "false");
    // Nobody serves: it goes straight into the file.
    let done = set(&here, "on");
    assert_eq!(done["changed"], true);
    let _host = here.host(&[]);
    let submitted = submit(&here, &project, &[]);
    let shown = ended(&here, submitted["id"].as_str().unwrap());
    assert_eq!(shown["result"]["kind"], "real");
    assert_eq!(shown["history"][0]["why"]["basis"], "flag");
}

#[test]
fn production_holds_a_route_whose_flag_is_turned_off() {
    let root = Installation::new();
    let project = project(root.path(), "pass");
    let worker = Worker::start(root.path(), 0);
    let here = Installation::new()
        .with("COGO_STAGE", "production")
        .with("AGENT_SERVICE", "code")
        .with("COGO_HOST_TOKEN", "0123456789abcdef")
        .with("COGO_WORKER_URL", &worker.url);
    let host = here.host(&[]);
    let off = set(&here, "off");
    assert_eq!(off["now"]["state"], "held");
    assert_eq!(off["now"]["reason"], "flag_off");
    assert!(
        host.holds().contains("operator turned its flag off"),
        "{}",
        host.holds()
    );
    let submitted = submit(&here, &project, &[]);
    let id = submitted["id"].as_str().unwrap();
    let on = set(&here, "on");
    assert_eq!(on["now"]["state"], "runs");
    assert_eq!(ended(&here, id)["result"]["kind"], "real");
}
