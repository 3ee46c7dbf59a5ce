//! What the worker is asked to do.

use cogo_executor::http::Request;
use cogo_executor::json::Object;
use cogo_executor::payload::{BuildTest, Codegen, Role, Sandbox};
use cogo_executor::{Failure, Task};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

use crate::settings::Settings;

/// A worker that has more to say has not understood the question.
const MAX_RESPONSE_BYTES: usize = 1024 * 1024;

/// A task in the worker's words.
pub(crate) struct Job<'a> {
    role: Role,
    task: &'a Task,
    fields: Vec<(&'a str, &'a RawValue)>,
}

impl<'a> Job<'a> {
    /// Checks the payload and takes from it what the worker gets. Fields are
    /// passed on as the producer wrote them.
    pub(crate) fn new(role: Role, task: &'a Task, object: &'a Object<'_>) -> Result<Self, Failure> {
        let fields = match role {
            Role::BuildTest => {
                BuildTest::read(object)?;
                chosen(object, &["repo", "ref", "edits_url"])
            }
            Role::Sandbox => {
                Sandbox::read(object)?;
                chosen(object, &["command", "code", "language", "limits"])
            }
            // A specification may lean on anything else in its payload.
            Role::Codegen => {
                Codegen::read(object)?;
                object
                    .entries()
                    .filter(|(key, _)| !["task_id", "trace_id"].contains(key))
                    .collect()
            }
        };
        Ok(Self { role, task, fields })
    }

    /// The request to the worker.
    pub(crate) fn request(&self, settings: &Settings) -> Result<Request, Failure> {
        let path = match self.role {
            Role::BuildTest => "/run/build-test",
            Role::Codegen => "/run/codegen",
            Role::Sandbox => "/run/sandbox",
        };
        let request = Request::post(settings.worker.join(path))
            .header("accept", "application/json")
            .header("idempotency-key", self.task.idempotency_key.as_str())
            .timeout(settings.timeout)
            .max_response_bytes(MAX_RESPONSE_BYTES)
            .json(self)?;
        Ok(request)
    }
}

impl Serialize for Job<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut body = serializer.serialize_map(Some(self.fields.len() + 2))?;
        body.serialize_entry("task_id", &self.task.id)?;
        for (key, value) in &self.fields {
            body.serialize_entry(key, value)?;
        }
        body.serialize_entry("trace_id", &self.task.trace_id)?;
        body.end()
    }
}

fn chosen<'a>(object: &Object<'a>, keys: &[&'static str]) -> Vec<(&'a str, &'a RawValue)> {
    keys.iter()
        .filter_map(|key| Some((*key, object.value(key)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cogo_executor::http::{BaseUrl, Method};
    use cogo_executor::payload;
    use cogo_executor::testing::task;

    use super::*;

    fn request(route: &str, payload: &str) -> Result<Request, Failure> {
        let settings = Settings {
            worker: BaseUrl::parse("http://worker:8080/cogo/").expect("a URL"),
            timeout: Duration::from_secs(7),
        };
        let task = task(route, payload);
        let object = payload::parse(&task)?;
        Job::new(Role::of(&task.route)?, &task, &object)?.request(&settings)
    }

    #[test]
    fn each_role_has_its_path_and_its_fields() {
        for (route, payload, url, body) in [
            (
                "code/build-test",
                r#"{"task_id":"ignored","ref":"main","repo":"r","edits_url":null,"other":1}"#,
                "http://worker:8080/cogo/run/build-test",
                r#"{"task_id":"task-1","repo":"r","ref":"main","trace_id":"trace-1"}"#,
            ),
            (
                "codegen/generate",
                r#"{"trace_id":"ignored","spec":{"n": 1e400},"style":"long"}"#,
                "http://worker:8080/cogo/run/codegen",
                r#"{"task_id":"task-1","spec":{"n": 1e400},"style":"long","trace_id":"trace-1"}"#,
            ),
            (
                "sandbox/run",
                r#"{"command":["ls","-l"],"limits":{"cpu":1},"other":1}"#,
                "http://worker:8080/cogo/run/sandbox",
                r#"{"task_id":"task-1","command":["ls","-l"],"limits":{"cpu":1},"trace_id":"trace-1"}"#,
            ),
        ] {
            let request = request(route, payload).expect("valid");
            assert_eq!((request.method, request.url.as_str()), (Method::Post, url));
            assert_eq!(String::from_utf8_lossy(&request.body), body);
        }
    }

    #[test]
    fn headers_timeout_and_limit_are_set() {
        let request = request("code/build-test", "{}").expect("valid");
        let header = |name| {
            let found = request
                .headers
                .iter()
                .find(|(candidate, _)| candidate == name);
            found.map(|(_, value)| value.as_str())
        };
        assert_eq!(header("idempotency-key"), Some("key-1"));
        assert_eq!(header("content-type"), Some("application/json"));
        assert_eq!(header("accept"), Some("application/json"));
        assert_eq!(request.timeout, Duration::from_secs(7));
        assert_eq!(request.max_response_bytes, 1024 * 1024);
    }

    #[test]
    fn a_wrong_payload_never_reaches_the_worker() {
        for (route, payload) in [
            ("code/build-test", r#"{"repo":5}"#),
            ("codegen/generate", "{}"),
            ("sandbox/run", r#"{"code":"1"}"#),
        ] {
            let result = request(route, payload);
            assert!(
                matches!(&result, Err(Failure::Permanent(problem)) if problem.code == "payload_invalid"),
                "{result:?}"
            );
        }
    }
}
