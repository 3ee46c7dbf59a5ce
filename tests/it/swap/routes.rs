//! Routes come and go with the plugins that handle them, and an attempt keeps
//! the version that it was assigned.

use std::sync::Arc;
use std::time::Duration;

use cogo_host::attempt::{AttemptEnd, Executor as _, LeaseEpoch, Usage};
use cogo_host::config::{Config, Layers};
use cogo_host::host::LiveRoutes;
use cogo_host::ids::{MessageId, TraceId};
use cogo_host::plugin::load::Settings;
use cogo_host::plugin::sandbox::Sandbox;
use cogo_host::route::Route;
use cogo_host::routing::{Routing as _, Unassigned};
use cogo_host::task::{Claim, ClaimedPayload};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::harness::{Following, named, version};
use crate::guest::{Guest, Returns};
use crate::sandbox::harness::{Controls, Shelf, attempt, load, runtimes};

/// Routes that follow a swapper's catalog, and a signal after each revision.
struct Routed {
    here: Following,
    routes: Arc<LiveRoutes>,
    revisions: watch::Receiver<u64>,
    _ending: tokio_util::sync::DropGuard,
}

impl Routed {
    async fn start(environment: &[(&str, &str)]) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        std::fs::create_dir(temporary.path().join("plugins")).unwrap();
        let config = super::harness::config(temporary.path(), environment);
        let here = Following::with(config.clone(), temporary).await;
        let plugins = Arc::clone(here.catalog()) as _;
        let routes = Arc::new(LiveRoutes::start(&config, plugins, Arc::default()).unwrap());
        let (revised, revisions) = watch::channel(0);
        let ending = CancellationToken::new();
        let guard = ending.clone().drop_guard();
        let changes = here.catalog().changes();
        tokio::spawn({
            let routes = Arc::clone(&routes);
            async move {
                let revised = || revised.send_modify(|count| *count += 1);
                routes.follow(changes, revised, ending).await;
            }
        });
        Self {
            here,
            routes,
            revisions,
            _ending: guard,
        }
    }

    /// Waits until the served routes are these, as `route=plugin`.
    async fn serves(&mut self, expected: &[&str]) {
        loop {
            self.revisions.mark_unchanged();
            let mut served: Vec<String> = self
                .routes
                .served()
                .iter()
                // The host's own is always there.
                .filter(|route| !route.key.is_dispatcher())
                .map(|route| format!("{}={}", route.key, route.plugin))
                .collect();
            served.sort();
            if served == expected {
                return;
            }
            let revised = self.revisions.changed();
            let revised = tokio::time::timeout(crate::support::process::PATIENCE, revised);
            let revised = revised.await;
            assert!(revised.is_ok(), "{served:?}, not {expected:?}");
        }
    }
}

fn handling(mut guest: Guest, routes: &[&str]) -> Vec<u8> {
    guest.handles = routes.iter().map(|route| (*route).to_owned()).collect();
    guest.component()
}

const BUNDLED: [&str; 3] = [
    "code/build-test=mock",
    "codegen/generate=mock",
    "sandbox/run=mock",
];

fn and(more: &[&'static str]) -> Vec<&'static str> {
    let mut all = [&BUNDLED[..], more].concat();
    all.sort_unstable();
    all
}

#[tokio::test]
async fn routes_come_and_go_with_their_plugins() {
    let mut routed = Routed::start(&[]).await;
    routed.serves(&BUNDLED).await;
    let docs = handling(named("docs", "1.0.0"), &["docs/render"]);
    routed.here.put("docs.wasm", &docs);
    routed.serves(&and(&["docs/render=docs"])).await;

    // Another version does another route, too, and then only that one.
    let more = handling(named("docs", "1.1.0"), &["docs/render", "docs/check"]);
    routed.here.put("docs.wasm", &more);
    routed
        .serves(&and(&["docs/check=docs", "docs/render=docs"]))
        .await;
    let other = handling(named("docs", "1.2.0"), &["docs/check"]);
    routed.here.put("docs.wasm", &other);
    routed.serves(&and(&["docs/check=docs"])).await;

    std::fs::remove_file(routed.here.at("docs.wasm")).unwrap();
    routed.serves(&BUNDLED).await;
    assert!(routed.routes.problems().is_empty());
}

#[tokio::test]
async fn a_route_that_two_plugins_claim_stays_with_the_first() {
    let mut routed = Routed::start(&[]).await;
    let docs = handling(named("docs", "1.0.0"), &["docs/render"]);
    routed.here.put("docs.wasm", &docs);
    routed.serves(&and(&["docs/render=docs"])).await;
    let rival = handling(named("rival", "1.0.0"), &["docs/render", "rival/own"]);
    routed.here.put("rival.wasm", &rival);
    // What is its own, it gets.
    routed
        .serves(&and(&["docs/render=docs", "rival/own=rival"]))
        .await;
    let problems = routed.routes.problems();
    let [problem] = problems.as_slice() else {
        panic!("{problems:?}");
    };
    assert!(problem.to_string().contains("docs, rival"), "{problem}");
    assert!(problem.error.hint.as_ref().unwrap().contains("docs/render"));

    // Without the first, nobody else is in the way.
    std::fs::remove_file(routed.here.at("docs.wasm")).unwrap();
    routed
        .serves(&and(&["docs/render=rival", "rival/own=rival"]))
        .await;
    assert!(routed.routes.problems().is_empty());
}

#[tokio::test]
async fn a_mock_that_gives_up_a_route_leaves_its_tasks_waiting() {
    let mut routed = Routed::start(&[]).await;
    // The real executor of the route is there, but has nowhere to call.
    let mock = handling(named("mock", "9.0.0"), &["code/build-test", "sandbox/run"]);
    routed.here.put("mock.wasm", &mock);
    routed
        .serves(&["code/build-test=mock", "sandbox/run=mock"])
        .await;
    let problems = routed.routes.problems();
    assert!(
        problems[0]
            .to_string()
            .contains("COGO_WORKER_URL is not set"),
        "{problems:?}"
    );
    std::fs::remove_file(routed.here.at("mock.wasm")).unwrap();
    routed.serves(&BUNDLED).await;
}

fn claim(route: &str) -> Claim {
    Claim {
        id: MessageId::generate(),
        epoch: LeaseEpoch(1),
        route: Route::of(route.parse().unwrap()),
        task_id: None,
        trace_id: TraceId::generate(),
        payload: ClaimedPayload::Text("{}".to_owned()),
        attempt: 1,
        max_attempts: None,
        host_faults: 0,
        age: Duration::ZERO,
        wait: Duration::ZERO,
        side: None,
        cancel_requested: false,
        spent: Usage::default(),
    }
}

#[tokio::test]
async fn an_attempt_runs_on_what_it_was_assigned_whatever_is_swapped_meanwhile() {
    const ROUTE: &str = "docs/render";
    let here = Following::start(&[]).await;
    let catalog = Arc::clone(here.catalog());
    let load = async |n: u32| {
        let mut guest = version(n);
        guest.handles = vec![ROUTE.to_owned()];
        guest.returns = Returns::Custom(format!("{{\"v\":{n}}}"));
        load(&guest, Settings::default()).await
    };
    catalog.install(load(0).await);
    let layers = [("COGO_STATE_DIR".to_owned(), "unused".to_owned())];
    let config = Config::from_layers(&Layers::new(layers)).unwrap();
    let routes = LiveRoutes::start(&config, Arc::clone(&catalog) as _, Arc::default()).unwrap();
    let claim = claim(ROUTE);
    let assigned = routes.assign(&claim, false).unwrap();
    let digest = assigned.plugin.digest;

    // Replaced so often that nobody keeps it, and removed on top of that.
    for n in 1..=7 {
        catalog.install(load(n).await);
    }
    catalog.remove(&assigned.plugin.name);
    let sandbox = Sandbox::new(Arc::clone(&catalog), runtimes(), Arc::new(Shelf::default()));
    let execute = || {
        let mut attempt = attempt(&catalog.by_digest(digest).unwrap());
        attempt.route = claim.route.clone();
        sandbox.execute(attempt, Controls::new().control)
    };
    match execute().await.end {
        AttemptEnd::Completed(outcome) => {
            assert_eq!(json!(outcome.report)["value"], json!({ "v": 0 }));
        }
        other => panic!("{other:?}"),
    }
    drop(assigned);
    assert!(catalog.by_digest(digest).is_none());

    // The table is a moment behind the catalog: nothing is run on a version
    // that does not do the route.
    match routes.assign(&claim, false) {
        Err(Unassigned::Fault(problem)) => assert_eq!(problem.code, "plugin_missing"),
        other => panic!("{other:?}"),
    }
    catalog.install(crate::sandbox::harness::load(&version(8), Settings::default()).await);
    assert!(matches!(
        routes.assign(&claim, false),
        Err(Unassigned::Fault(_))
    ));
    assert!(
        routes
            .served()
            .iter()
            .all(|route| route.key.to_string() != ROUTE)
    );
}
