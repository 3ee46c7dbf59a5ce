//! Tasks that are addressed to the dispatcher and go on to their target.

use cogo_host::route::{Route, RouteKey};
use cogo_host::store::TaskFilter;
use cogo_host::task::{NewTask, Status, TaskRow};
use serde_json::{Value, json};

use super::harness::{Bench, served};
use crate::support::hand::{DOCS, task};

const DISPATCHER: &str = "orchestrator/execute";

fn addressed(payload: Value) -> NewTask {
    NewTask {
        route: Route::of(RouteKey::dispatcher()),
        payload,
        ..task(DOCS)
    }
}

async fn bench() -> Bench {
    let bench = Bench::new().await;
    bench.routes.serve(vec![
        served(DISPATCHER, 4, "dispatcher", 4),
        served(DOCS, 4, "mock", 4),
    ]);
    bench
}

/// The rows of the trace on the route of documents.
async fn rendered(bench: &Bench, task: &NewTask) -> Vec<TaskRow> {
    let filter = TaskFilter {
        trace_id: Some(task.trace_id.clone()),
        route: Some(DOCS.parse().unwrap()),
        limit: 10,
        ..TaskFilter::default()
    };
    bench.bed.store.tasks(&filter).await.unwrap()
}

#[tokio::test]
async fn a_task_goes_on_to_its_target_in_the_same_trace() {
    let mut bench = bench().await;
    let task = addressed(json!({ "target": DOCS, "page": 7 }));
    let id = bench.submit(task.clone()).await;
    let bus = bench.start();
    let call = bench.call().await;
    assert_eq!(call.attempt.route.key.to_string(), DOCS);
    assert_eq!(call.attempt.trace_id, task.trace_id);
    assert!(
        call.attempt.payload.contains(r#""page":7"#) && !call.attempt.payload.contains("target")
    );
    call.done();
    let row = bench.ended(id).await;
    assert_eq!(row.status, Status::Done);
    let forwarded = rendered(&bench, &task).await;
    assert_eq!(row.result.unwrap()["message_id"], json!(forwarded[0].id));
    assert_eq!(
        bench.event_types(id).await,
        [
            "execute_enqueued",
            "execute_done",
            "orchestrator_execute_done"
        ]
    );
    assert_eq!(bench.ended(forwarded[0].id).await.status, Status::Done);
    bench.stop(&bus).await;
}

#[tokio::test]
async fn what_cannot_go_on_fails_and_says_why() {
    let bench = bench().await;
    let mut submitted = Vec::new();
    for (payload, code) in [
        (json!({}), "payload_invalid: "),
        (json!({ "target": "docs/print" }), "target_unknown: "),
        (json!({ "target": DISPATCHER }), "target_loop: "),
        (
            json!({ "target": DOCS, "__assignment": { "budget": { "maxTokens": -1 } } }),
            "payload_invalid: ",
        ),
        (
            json!({ "target": DOCS, "__assignment": { "ttl_ms": 0 } }),
            "ttl_exceeded: ",
        ),
    ] {
        let task = addressed(payload);
        bench.submit(task.clone()).await;
        submitted.push((task, code));
    }
    let bus = bench.start();
    for (task, code) in submitted {
        let row = bench.ended(task.id).await;
        assert_eq!(row.status, Status::Failed);
        let error = row.error.unwrap();
        assert!(error.starts_with(code), "{error}");
        bench.event(task.id, "execute_failed").await;
        assert!(rendered(&bench, &task).await.is_empty());
    }
    bench.stop(&bus).await;
}
