//! The dispatcher: what becomes of a task that is addressed to
//! `orchestrator/execute` and names its real target in the payload.
//!
//! Pure: claim and payload in, the task to put on the bus out. The store writes
//! it in the transaction that ends the dispatcher's row, so that a task is
//! forwarded once, whatever crashes, or not at all.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::attempt::{Blame, Problem};
use crate::ids::MessageId;
use crate::payload::{Payload, PayloadError};
use crate::route::{Route, RouteKey};
use crate::task::{Claim, NewTask};

/// The code of a task whose target nobody handles.
pub const TARGET_UNKNOWN: &str = "target_unknown";
/// The code of a task whose target is the dispatcher itself.
pub const TARGET_LOOP: &str = "target_loop";

/// The task that a dispatcher's row asks for.
///
/// It keeps label, trace, tenant and shard, and what the producer allowed it;
/// of its time to live it gets what is left. `handled` are the routes that some
/// plugin handles.
///
/// # Errors
/// [`Problem`] says why there is none; another attempt would find the same.
pub fn forward(
    claim: &Claim,
    payload: &Payload,
    ttl_left: Option<Duration>,
    handled: &[RouteKey],
) -> Result<NewTask, Problem> {
    let target = target(payload, handled)?;
    let mut object: Map<String, Value> = serde_json::from_str(&payload.text)
        .map_err(|cause| invalid(&PayloadError::NotJson(cause.to_string())))?;
    object.remove("target");
    object.insert("trace_id".to_owned(), json!(claim.trace_id));
    let assignment = object
        .get_mut("__assignment")
        .and_then(Value::as_object_mut);
    if let (Some(assignment), Some(left)) = (assignment, ttl_left) {
        assignment.insert("ttl_ms".to_owned(), json!(crate::millis::millis(left)));
    }
    let object = Value::Object(object);
    // What the target would refuse is told here, where the producer looks.
    Payload::parse(object.to_string(), &target).map_err(|error| invalid(&error))?;
    Ok(NewTask {
        id: MessageId::generate(),
        route: Route {
            key: target,
            shard: claim.route.shard,
            tenant: claim.route.tenant.clone(),
        },
        task_id: claim.task_id.clone().or_else(|| payload.task_id.clone()),
        trace_id: claim.trace_id.clone(),
        payload: object,
        // The store gives it that of the row it comes from.
        priority: 0,
        max_attempts: None,
        unique_key: Some(format!("dispatch:{}", claim.id)),
        delay: Duration::ZERO,
        repeats: None,
    })
}

fn target(payload: &Payload, handled: &[RouteKey]) -> Result<RouteKey, Problem> {
    let problem = |code, message: String| Err(Problem::new(code, message, Blame::Guest));
    match &payload.target {
        None => problem(TARGET_UNKNOWN, "the payload names no `target`".to_owned()),
        Some(target) if target.is_dispatcher() => problem(
            TARGET_LOOP,
            format!("`target` is `{target}`, which would forward the task to itself for ever"),
        ),
        Some(target) if !handled.contains(target) => {
            let known: Vec<String> = handled
                .iter()
                .filter(|key| !key.is_dispatcher())
                .map(ToString::to_string)
                .collect();
            problem(
                TARGET_UNKNOWN,
                format!(
                    "nobody handles the target `{target}`; there are: {}",
                    known.join(", ")
                ),
            )
        }
        Some(target) => Ok(target.clone()),
    }
}

fn invalid(error: &PayloadError) -> Problem {
    Problem::new(error.code(), error.to_string(), Blame::Guest)
}

/// The `result` column of a dispatcher's row.
pub fn result(forwarded: &NewTask) -> Value {
    json!({
        "type": "dispatch",
        "target": forwarded.route.key,
        "message_id": forwarded.id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attempt::{LeaseEpoch, Usage};
    use crate::task::ClaimedPayload;

    fn claim() -> Claim {
        Claim {
            id: MessageId::generate(),
            epoch: LeaseEpoch(1),
            route: Route {
                key: RouteKey::dispatcher(),
                shard: 3,
                tenant: Some("acme".to_owned()),
            },
            task_id: Some("t-1".to_owned()),
            trace_id: "trace-1".parse().unwrap(),
            payload: ClaimedPayload::TooLarge { bytes: 0 },
            attempt: 1,
            max_attempts: None,
            host_faults: 0,
            age: Duration::from_secs(1),
            wait: Duration::ZERO,
            side: None,
            cancel_requested: false,
            spent: Usage::default(),
        }
    }

    fn handled() -> Vec<RouteKey> {
        [
            "code/build-test",
            "codegen/generate",
            "orchestrator/execute",
        ]
        .map(|key| key.parse().unwrap())
        .into()
    }

    fn forwarded(payload: &str) -> Result<NewTask, Problem> {
        let payload = Payload::parse(payload.to_owned(), &RouteKey::dispatcher()).unwrap();
        let left = payload.assignment.as_ref().and_then(|a| a.ttl);
        let left = left.map(|ttl| ttl.saturating_sub(Duration::from_millis(400)));
        forward(&claim(), &payload, left, &handled())
    }

    #[test]
    fn the_task_goes_to_its_target_with_what_it_was_allowed() {
        let task = forwarded(
            r#"{"target":"code/build-test","repo":"r","__assignment":{"ttl_ms":1000,"model":"m"}}"#,
        )
        .unwrap();
        assert_eq!(task.route.key.to_string(), "code/build-test");
        assert_eq!(
            (task.route.shard, task.route.tenant.as_deref()),
            (3, Some("acme"))
        );
        assert_eq!(task.task_id.as_deref(), Some("t-1"));
        assert_eq!(task.trace_id.as_str(), "trace-1");
        assert_eq!(
            task.payload,
            json!({
                "repo": "r", "trace_id": "trace-1",
                "__assignment": { "ttl_ms": 600, "model": "m" },
            })
        );
        assert!(task.unique_key.unwrap().starts_with("dispatch:"));
    }

    #[test]
    fn what_cannot_be_forwarded_says_why() {
        for (payload, code, part) in [
            (
                r#"{"target":"docs/render"}"#,
                TARGET_UNKNOWN,
                "there are: code/build-test, codegen/generate",
            ),
            (
                r#"{"target":"orchestrator/execute"}"#,
                TARGET_LOOP,
                "for ever",
            ),
            (
                r#"{"target":"codegen/generate"}"#,
                "payload_invalid",
                "payload of codegen/generate: `spec`",
            ),
        ] {
            let problem = forwarded(payload).unwrap_err();
            assert_eq!(problem.code, code, "{payload}");
            assert!(
                problem.message.contains(part),
                "{payload}: {}",
                problem.message
            );
        }
    }
}
