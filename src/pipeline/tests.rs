//! Orders, and what comes next in a run.

use super::*;

fn order(more: Value) -> Order {
    let mut order = json!({ "taskId": "t-1", "spec": "do it", "repo": "r" });
    order
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    serde_json::from_value(order).unwrap()
}

fn handled() -> Vec<RouteKey> {
    KnownRole::ALL.map(KnownRole::key).into()
}

fn run(state: State) -> Run {
    let accepted = order(json!({ "__assignment": { "ttl_ms": 1000 } }));
    let accepted = accepted.accept("me", &handled()).unwrap();
    Run {
        task_id: accepted.order.task_id.clone(),
        trace_id: accepted.trace_id,
        state,
        revision: 1,
        order: accepted.order,
        actor: accepted.actor,
        codegen: Some(accepted.codegen.id),
        build_test: Some(MessageId::generate()),
        cancel_requested_at: None,
        cancelled_by: None,
        error: None,
        decision: None,
        created_at: DateTime::UNIX_EPOCH,
        updated_at: DateTime::UNIX_EPOCH,
        ended_at: None,
        age_ms: 400,
    }
}

fn row(status: Status, error: Option<&str>) -> TaskRow {
    TaskRow {
        id: MessageId::generate(),
        created_at: DateTime::UNIX_EPOCH,
        service: "code".to_owned(),
        role: "build-test".to_owned(),
        shard: 0,
        tenant: None,
        task_id: None,
        trace_id: None,
        status,
        priority: 0,
        attempts: 1,
        max_attempts: None,
        host_faults: 0,
        unique_key: None,
        claimed_by: None,
        claimed_at: None,
        lease_epoch: 1,
        lease_expires_at: None,
        cancel_requested_at: None,
        done_at: None,
        retry_at: None,
        last_error_at: None,
        error: error.map(str::to_owned),
        result_snippet: None,
        result_url: None,
        result: None,
        payload: None,
    }
}

#[test]
fn an_order_becomes_a_task_for_each_stage() {
    let accepted = order(json!({
        "ref": "main", "tenant": "acme", "priority": 3,
        "codegen": { "style": "long" }, "buildTest": { "mock": { "tests": 3 } },
    }));
    let accepted = accepted.accept("me", &handled()).unwrap();
    let codegen = &accepted.codegen;
    assert_eq!(codegen.route.key, KnownRole::Codegen.key());
    assert_eq!(
        (codegen.priority, codegen.route.tenant.as_deref()),
        (3, Some("acme"))
    );
    assert_eq!(
        codegen.payload,
        json!({
            "spec": "do it", "repo": "r", "ref": "main", "style": "long",
            "task_id": "t-1", "trace_id": accepted.trace_id,
        })
    );
    let task = run(State::Codegen)
        .build_test_task("http://h/e.json", &Usage::default())
        .unwrap();
    assert_eq!(task.route.key, KnownRole::BuildTest.key());
    assert_eq!(task.task_id.as_deref(), Some("t-1"));
    assert_eq!(task.payload["edits_url"], "http://h/e.json");
    // What the first stage took of the time is gone.
    assert_eq!(task.payload["__assignment"]["ttl_ms"], 600);
    assert!(task.payload.get("spec").is_none());
}

#[test]
fn both_stages_spend_from_one_budget() {
    let spent = Usage {
        cost_micro_usd: 300_000,
        tokens: 70,
        model: None,
    };
    for (budget, left) in [
        (
            json!({ "maxCostUsd": 0.5, "maxTokens": 100 }),
            json!({ "maxCostUsd": 0.2, "maxTokens": 30 }),
        ),
        (json!({ "maxTokens": 60 }), json!({ "maxTokens": 0 })),
        (json!({}), json!({})),
    ] {
        let mut run = run(State::Codegen);
        run.order.assignment = Some(json!({ "budget": budget }));
        let task = run.build_test_task("http://h/e.json", &spent).unwrap();
        assert_eq!(task.payload["__assignment"]["budget"], left);
    }
}

#[test]
fn an_order_that_a_stage_would_refuse_is_none() {
    for (more, part) in [
        (
            json!({ "spec": null }),
            "payload of codegen/generate: `spec`",
        ),
        (
            json!({ "spec": " " }),
            "payload of codegen/generate: `spec`",
        ),
        (json!({ "taskId": "" }), "`task_id` is empty"),
        (json!({ "traceId": "a b" }), "trace id"),
        (
            json!({ "buildTest": { "edits_url": 7 } }),
            "payload of code/build-test: `edits_url`",
        ),
        (json!({ "__assignment": 7 }), "__assignment"),
    ] {
        let refused = order(more.clone())
            .accept("me", &handled())
            .unwrap_err()
            .to_string();
        assert!(refused.contains(part), "{more}: {refused}");
    }
    let only = [KnownRole::BuildTest.key()];
    let refused = order(json!({})).accept("me", &only).unwrap_err();
    assert_eq!(refused.code(), "route_unknown");
    let unknown = json!({ "taskId": "t", "spec": "s", "sepc": 1 });
    assert!(serde_json::from_value::<Order>(unknown).is_err());
}

#[test]
fn what_comes_next_follows_from_the_stage() {
    let judge = |error: &str| Step::Judge {
        error: (!error.is_empty()).then(|| error.to_owned()),
    };
    let cases = [
        (State::Codegen, row(Status::Queued, None), Step::Wait),
        (State::Codegen, row(Status::Claimed, None), Step::Wait),
        (State::Codegen, row(Status::Done, None), Step::CheckEdits),
        (State::BuildTest, row(Status::Done, None), judge("")),
        (
            State::Codegen,
            row(Status::Failed, Some("x: y")),
            judge("codegen: x: y"),
        ),
        (
            State::BuildTest,
            row(Status::Failed, Some("x: y")),
            judge("build-test: x: y"),
        ),
        (
            State::BuildTest,
            row(Status::Failed, Some("cancelled")),
            Step::Cancel,
        ),
        (State::Done, row(Status::Done, None), Step::Wait),
    ];
    for (state, stage, expected) in cases {
        assert_eq!(
            next(&run(state), Some(&stage)),
            expected,
            "{state:?} {:?}",
            stage.status
        );
    }
    let Step::Judge { error: Some(error) } = next(&run(State::Codegen), None) else {
        panic!("a lost stage ends the run");
    };
    assert!(error.starts_with("stage_lost: "), "{error}");
}

#[test]
fn a_run_that_is_to_end_takes_its_task_with_it() {
    let mut cancelling = run(State::Codegen);
    cancelling.cancel_requested_at = Some(DateTime::UNIX_EPOCH);
    let running = row(Status::Claimed, None);
    assert_eq!(
        next(&cancelling, Some(&running)),
        Step::CancelTask(running.id)
    );
    // Nothing more is begun, but a verdict that is there is given.
    assert_eq!(
        next(&cancelling, Some(&row(Status::Done, None))),
        Step::Cancel
    );
    cancelling.state = State::BuildTest;
    let done = row(Status::Done, None);
    assert_eq!(next(&cancelling, Some(&done)), Step::Judge { error: None });
}

#[test]
fn a_run_that_stopped_early_fails_whatever_else_is_in_its_trace() {
    let trace = || GateReport {
        verdict: Verdict::Pass,
        checks: Vec::new(),
    };
    assert_eq!(decide(trace(), 2, None).verdict, Verdict::Pass);
    let stopped = decide(trace(), 1, Some("codegen: x"));
    assert_eq!(stopped.verdict, Verdict::Fail);
    assert_eq!(stopped.checks[0].note.as_deref(), Some("codegen: x"));
    assert_eq!(
        decide(trace(), 2, Some("build-test: x")).verdict,
        Verdict::Fail
    );
}
