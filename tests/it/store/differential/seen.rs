//! What can be observed of a bus, in a form that two databases must share:
//! instants and durations in whole hours from now, generated traces by the task
//! that they belong to, JSON by its value.

use chrono::{DateTime, Utc};
use cogo_host::gate::Scope;
use cogo_host::ids::MessageId;
use cogo_host::store::Store;
use cogo_host::task::{Claim, ClaimedPayload};
use serde_json::{Map, Value, json};

use crate::support::{all_tasks, everything as all_events};

const HOUR_MS: f64 = 3_600_000.0;

/// The traces that a history names itself.
const NAMED_TRACES: [&str; 2] = ["trace-", "its-trace"];

/// Claims as they were handed out, in order.
pub fn claims(claims: &[Claim]) -> Value {
    let each = claims.iter().map(|claim| {
        json!({
            "id": claim.id,
            "epoch": claim.epoch,
            "route": format!("{:?}", claim.route),
            "task_id": claim.task_id,
            "trace_id": trace(claim.trace_id.as_str()),
            "payload": match &claim.payload {
                ClaimedPayload::Text(text) => serde_json::from_str(text).unwrap(),
                ClaimedPayload::TooLarge { bytes } => json!(bytes),
            },
            "attempt": claim.attempt,
            "max_attempts": claim.max_attempts,
            "host_faults": claim.host_faults,
            "age_h": hours(claim.age.as_millis() as f64),
            "wait_h": hours(claim.wait.as_millis() as f64),
            "cancel_requested": claim.cancel_requested,
            "spent": format!("{:?}", claim.spent),
        })
    });
    each.collect()
}

/// Everything that the bus shows: tasks with their attempts, events, depth and
/// what a gate would go by.
pub async fn everything(store: &dyn Store, ids: &[MessageId]) -> Value {
    let mut tasks = Map::new();
    for id in ids {
        let row = store.task(*id).await.unwrap();
        let attempts = store.attempts(*id).await.unwrap();
        let both = json!({ "row": row, "attempts": attempts });
        tasks.insert(id.to_string(), normal("", both));
    }
    let listed = store.tasks(&all_tasks()).await.unwrap();
    let events = store.events(&all_events()).await.unwrap();
    // Their numbers are each database's own; their order is not, per task.
    let mut by_task: Map<String, Value> = Map::new();
    for event in &events {
        let mut event = json!(event);
        let task = event["message_id"].to_string();
        event.as_object_mut().unwrap().remove("id");
        let list = by_task.entry(task).or_insert_with(|| json!([]));
        list.as_array_mut().unwrap().push(normal("", event));
    }
    let depth = store.depth().await.unwrap();
    let window = Scope::Window {
        minutes: 10_000_000,
    };
    let mut evidence = store.evidence(&window).await.unwrap();
    evidence.wait_p90_ms = evidence.wait_p90_ms.map(|ms| hours(ms as f64) as u64);
    let mut ended: Vec<String> = evidence.ended.iter().map(|e| format!("{e:?}")).collect();
    ended.sort_unstable();
    evidence.ended.clear();
    let routes = store.routes().await.unwrap();
    json!({
        "tasks": tasks,
        "listed": listed.len(),
        "events": by_task,
        "depth": normal("", json!(depth)),
        "evidence": format!("{evidence:?}"),
        "ended": ended,
        "routes": routes.iter().map(|route| format!("{route:?}")).collect::<Vec<_>>(),
    })
}

fn normal(name: &str, value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let each = fields.into_iter();
            Value::Object(each.map(|(k, v)| (k.clone(), normal(&k, v))).collect())
        }
        Value::Array(items) => items.into_iter().map(|item| normal(name, item)).collect(),
        Value::String(text) if name == "trace_id" => json!(trace(&text)),
        Value::String(text) => match text.parse::<DateTime<Utc>>() {
            Ok(instant) => {
                let ms = (instant - Utc::now()).num_milliseconds() as f64;
                json!(format!("{name} {} h from now", hours(ms)))
            }
            Err(_) => Value::String(text),
        },
        Value::Number(number) if name.ends_with("_ms") => {
            json!(format!("{} h", hours(number.as_f64().unwrap())))
        }
        other => other,
    }
}

/// A trace that a store made up is only known to be one.
fn trace(text: &str) -> &str {
    let named = NAMED_TRACES.iter().any(|named| text.starts_with(named));
    if named { text } else { "made up" }
}

fn hours(ms: f64) -> i64 {
    (ms / HOUR_MS).round() as i64
}

/// The places where two values differ, one a line.
pub fn difference(sqlite: &Value, postgres: &Value) -> String {
    let mut told = Vec::new();
    walk("", sqlite, postgres, &mut told);
    told.join("\n")
}

fn walk(path: &str, sqlite: &Value, postgres: &Value, told: &mut Vec<String>) {
    match (sqlite, postgres) {
        (Value::Object(a), Value::Object(b)) => {
            let mut names: Vec<&String> = a.keys().chain(b.keys()).collect();
            names.sort_unstable();
            names.dedup();
            for name in names {
                let (a, b) = (a.get(name), b.get(name));
                let null = &Value::Null;
                let path = format!("{path}.{name}");
                walk(&path, a.unwrap_or(null), b.unwrap_or(null), told);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (n, (a, b)) in a.iter().zip(b).enumerate() {
                walk(&format!("{path}[{n}]"), a, b, told);
            }
        }
        (a, b) if a == b => {}
        (a, b) => told.push(format!("{path}\n  SQLite   {a}\n  Postgres {b}")),
    }
}
