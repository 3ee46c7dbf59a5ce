//! A worker that goes away: staging falls back by itself and comes back by
//! itself, production holds the route and asks.

use std::path::PathBuf;

use serde_json::Value;

use crate::support::process::{Host, Installation, Worker};
use crate::whole_path::{count, ended, events, free_port, project, submit, task};

const ROUTE: &str = "code/build-test";

/// An installation whose worker may come and go on one port.
struct Scene {
    here: Installation,
    root: Installation,
    project: PathBuf,
    port: u16,
    worker: Option<Worker>,
    host: Host,
}

impl Scene {
    fn start(stage: &str) -> Self {
        let root = Installation::new();
        let project = project(root.path(), "pass");
        let port = free_port();
        let here = Installation::new()
            .with("COGO_STAGE", stage)
            .with("AGENT_SERVICE", "code")
            .with("COGO_HOST_TOKEN", "0123456789abcdef")
            .with("COGO_WORKER_URL", &format!("http://127.0.0.1:{port}"))
            .with("COGO_PROBE_AFTER_MS", "200")
            .with("COGO_RETRY_BASE_MS", "50")
            // The worker takes no more at once.
            .with("COGO_CONCURRENCY", "2");
        let host = here.host(&[]);
        let mut scene = Self {
            here,
            root,
            project,
            port,
            worker: None,
            host,
        };
        scene.worker_comes();
        scene
    }

    fn worker_comes(&mut self) {
        self.worker = Some(Worker::start(self.root.path(), self.port));
    }

    /// `kill -9`.
    fn worker_goes(&mut self) {
        self.worker = None;
    }

    fn submit(&self) -> String {
        // No attempt is to be the last one by chance.
        let submitted = submit(&self.here, &self.project, &["--max-attempts", "50"]);
        submitted["id"].as_str().unwrap().to_owned()
    }

    fn submit_several(&self) -> Vec<String> {
        (0..4).map(|_| self.submit()).collect()
    }

    fn ended(&self, id: &str) -> Value {
        ended(&self.here, id)
    }

    /// The route, as its host sees it.
    fn route(&self) -> Value {
        let listed = self.here.run(&["route", "list", "--json"]).expect(0).data();
        let routes = listed.as_array().unwrap();
        routes.iter().find(|r| r["route"] == ROUTE).unwrap().clone()
    }

    fn until_route(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        self.here.until(what, || {
            let route = self.route();
            is_so(&route).then_some(route)
        })
    }

    fn is_held(&self) {
        self.until_route("the route is held", |route| {
            route["now"]["state"] == "held" && route["now"]["reason"] == "breaker_open"
        });
    }

    fn events(&self, id: &str) -> Vec<String> {
        let shown = task(&self.here, id);
        events(&self.here, shown["trace_id"].as_str().unwrap())
    }

    /// The gate over a task's trace: the value of its check on the real path.
    fn real_path(&self, id: &str) -> Value {
        let shown = task(&self.here, id);
        let trace = shown["trace_id"].as_str().unwrap();
        let gate = self.here.run(&["gate", "--trace", trace, "--json"]).data();
        let checks = gate["report"]["checks"].as_array().unwrap();
        let check = checks.iter().find(|check| check["name"] == "real_path");
        check.unwrap().clone()
    }
}

/// A result of the mock that stands in, stamped wherever it is shown.
fn is_stamped(shown: &Value) {
    assert_eq!(shown["status"], "done", "{shown}");
    assert_eq!(shown["result"]["fallback"], true);
    assert_eq!(shown["result"]["kind"], "mock");
    let snippet = shown["result_snippet"].as_str().unwrap();
    assert!(snippet.starts_with("[mock fallback] "), "{snippet}");
    let last = shown["history"].as_array().unwrap().last().unwrap();
    assert_eq!(last["why"]["fallback"], true);
    assert_eq!(last["why"]["basis"], "breaker_open");
}

fn is_real(shown: &Value) {
    assert_eq!(shown["status"], "done", "{shown}");
    assert_eq!(shown["result"]["fallback"], false);
    assert_eq!(shown["result"]["kind"], "real");
}

#[test]
fn staging_falls_back_and_comes_back_by_itself() {
    let mut scene = Scene::start("staging");
    let first = scene.submit();
    is_real(&scene.ended(&first));
    assert_eq!(scene.real_path(&first)["verdict"], "pass");

    scene.worker_goes();
    let ids = scene.submit_several();
    let first = scene.ended(&ids[0]);
    assert_eq!(first["history"][0]["code"], "worker_unreachable");
    for id in ids {
        is_stamped(&scene.ended(&id));
        assert_eq!(count(&scene.events(&id), "execute_fallback"), 1);
        // A mock never counts as real.
        assert_eq!(scene.real_path(&id)["verdict"], "fail");
    }
    let route = scene.route();
    assert_eq!(route["now"]["why"]["fallback"], true);
    assert_eq!(route["decided"]["breaker"]["cause"], "unreachable");
    assert_eq!(scene.host.holds(), "no route is held");

    scene.worker_comes();
    let probe = scene.here.until("a task runs on the worker", || {
        let shown = scene.ended(&scene.submit());
        (shown["result"]["kind"] == "real").then_some(shown)
    });
    is_real(&probe);
    scene.until_route("the breaker is closed", |route| {
        route["decided"]["breaker"]["state"] == "closed"
    });
    is_real(&scene.ended(&scene.submit()));
}

#[test]
fn production_holds_and_runs_the_mock_only_under_an_approval() {
    let mut scene = Scene::start("production");
    is_real(&scene.ended(&scene.submit()));
    scene.worker_goes();
    let waiting = scene.submit_several();
    scene.is_held();
    let command = format!("cogo-host fallback approve --route {ROUTE} --reason TEXT --ttl 30m");
    let holds = scene.host.holds();
    assert!(
        holds.contains("its real path is down") && holds.contains(&command),
        "{holds}"
    );

    let approve = |ttl: &str| {
        let args = [
            "fallback",
            "approve",
            "--route",
            ROUTE,
            "--reason",
            "a release waits",
            "--ttl",
            ttl,
            "--json",
        ];
        scene.here.run(&args).expect(0).data()["id"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let approval = approve("1h");
    for id in &waiting {
        let shown = scene.ended(id);
        is_stamped(&shown);
        let last = shown["history"].as_array().unwrap().last().unwrap().clone();
        assert_eq!(last["why"]["approval"], approval.as_str());
        assert_eq!(scene.real_path(id)["verdict"], "fail");
    }
    let _ = scene.here.run(&["fallback", "revoke", &approval]).expect(0);
    scene.is_held();
    let _ = scene.here.run(&["fallback", "revoke", &approval]).expect(2);

    // This one ends by itself, after it was used.
    let short = approve("10s");
    let used = scene.submit();
    is_stamped(&scene.ended(&used));
    scene.is_held();
    let all = scene
        .here
        .run(&["fallback", "list", "--all", "--json"])
        .expect(0)
        .data();
    let states: Vec<_> = all.as_array().unwrap().iter().collect();
    assert_eq!(states.len(), 2);
    assert_eq!(states[0]["id"], short.as_str());
    assert_eq!(states[0]["left_ms"], 0);
    assert_eq!(states[0]["revoked_at"], Value::Null);
    assert_eq!(states[1]["revoked_by"], "operator");

    let held = scene.submit_several();
    let before: Vec<Value> = held.iter().map(|id| task(&scene.here, id)).collect();
    for shown in &before {
        assert_ne!(shown["status"], "failed", "{shown}");
        assert_eq!(shown["result"], Value::Null, "{shown}");
    }
    scene.worker_comes();
    for id in &held {
        let shown = scene.ended(id);
        is_real(&shown);
        // Waiting costs no attempt, and a probe none either.
        assert_eq!(shown["attempts"], 1, "{shown}");
    }
    scene.until_route("the breaker is closed", |route| {
        route["decided"]["breaker"]["state"] == "closed" && route["now"]["state"] == "runs"
    });
    assert_eq!(scene.host.holds(), "no route is held");
}

#[test]
fn failing_half_of_the_time_is_enough_for_a_fallback() {
    let scene = Scene::start("staging");
    // The worker answers all along: to these with a report,
    let passing: Vec<String> = (0..4).map(|_| scene.submit()).collect();
    for id in &passing {
        is_real(&scene.ended(id));
    }
    // and to these that it cannot get their sources.
    let nowhere = format!("http://127.0.0.1:{}/sources.tar.gz", free_port());
    let failing = |attempts: &str| {
        let args = ["--max-attempts", attempts];
        let submitted = submit(&scene.here, std::path::Path::new(&nowhere), &args);
        submitted["id"].as_str().unwrap().to_owned()
    };
    let is_open = || scene.route()["decided"]["breaker"]["state"] == "open";
    let mut failed = 0;
    while failed < 60 && !is_open() {
        let ids: Vec<String> = (0..4).map(|_| failing("1")).collect();
        failed += ids.len();
        for id in &ids {
            scene.ended(id);
        }
    }
    let open = scene.until_route("the breaker is open", |route| {
        route["decided"]["breaker"]["cause"] == "failure_share"
    });
    let breaker = &open["decided"]["breaker"];
    let count = |field: &str| breaker[field].as_u64().unwrap();
    assert!(count("results") >= 20, "{breaker}");
    assert!(count("failures") < count("results"), "{breaker}");

    // A task that no probe can help: the mock stands in, and says so.
    let shown = scene.ended(&failing("50"));
    is_stamped(&shown);
    // The first probe that the worker can do something with closes it again.
    scene.until_route("the breaker is closed", |route| {
        scene.ended(&scene.submit());
        route["decided"]["breaker"]["state"] == "closed"
    });
    is_real(&scene.ended(&scene.submit()));
}
