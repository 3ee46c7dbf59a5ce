//! A [`Host`] for tests: it answers from a script and records what was done.
//!
//! ```
//! use cogo_executor::http::{Request, Response};
//! use cogo_executor::{Host, testing::FakeHost};
//!
//! let host = FakeHost::new().with_config("URL", "http://worker").answering(Response::new(204));
//! let answer = host.send(&Request::get("http://worker/health")).expect("scripted");
//! assert_eq!(answer.status, 204);
//! assert_eq!(host.requests.borrow()[0].url, "http://worker/health");
//! ```

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::http::{Error, Request, Response};
use crate::{ArtifactError, Host, Interrupted, Level, Route, StopReason, Task, Usage};

/// A first attempt at a task of a route, `service/role`, with the given payload.
pub fn task(route: &str, payload: &str) -> Task {
    let (service, role) = route.split_once('/').unwrap_or((route, ""));
    Task {
        id: "task-1".into(),
        message_id: "6f2b0c1e-0000-7000-8000-000000000001".into(),
        idempotency_key: "key-1".into(),
        trace_id: "trace-1".into(),
        route: Route {
            service: service.into(),
            role: role.into(),
            shard: 0,
            tenant: None,
        },
        attempt: 1,
        max_attempts: 5,
        deadline_ms: 70_000,
        payload: payload.into(),
        attributes: Vec::new(),
    }
}

/// A host that does as it was told beforehand. What a plugin did lies in the
/// public fields.
#[derive(Debug, Default)]
pub struct FakeHost {
    config: BTreeMap<String, String>,
    answers: RefCell<VecDeque<Result<Response, Error>>>,
    stopping: Cell<Option<StopReason>>,
    /// Every logged line.
    pub log: RefCell<Vec<(Level, String)>>,
    /// Every reported progress.
    pub progress: RefCell<Vec<(Option<f64>, String)>>,
    /// Every reported usage.
    pub usage: RefCell<Vec<Usage>>,
    /// Every request, in order.
    pub requests: RefCell<Vec<Request>>,
    /// Every artifact by path; its URL is `artifact:` and the path.
    pub artifacts: RefCell<BTreeMap<String, Vec<u8>>>,
    /// The time slept. No time passes.
    pub slept: Cell<Duration>,
}

impl FakeHost {
    /// A host that knows no configuration and no answers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a configuration value.
    #[must_use]
    pub fn with_config(mut self, key: &str, value: &str) -> Self {
        self.config.insert(key.into(), value.into());
        self
    }

    /// Adds the answer to the next request that has none yet.
    #[must_use]
    pub fn answering(self, answer: Response) -> Self {
        self.answers.borrow_mut().push_back(Ok(answer));
        self
    }

    /// Has the next request that has no answer yet fail.
    #[must_use]
    pub fn failing(self, error: Error) -> Self {
        self.answers.borrow_mut().push_back(Err(error));
        self
    }

    /// Wants the attempt to end.
    #[must_use]
    pub fn stopping(self, reason: StopReason) -> Self {
        self.stopping.set(Some(reason));
        self
    }
}

impl Host for FakeHost {
    fn log(&self, level: Level, message: &str) {
        self.log.borrow_mut().push((level, message.into()));
    }

    fn progress(&self, fraction: Option<f64>, note: &str) {
        self.progress.borrow_mut().push((fraction, note.into()));
    }

    fn config(&self, key: &str) -> Option<String> {
        self.config.get(key).cloned()
    }

    fn report_usage(&self, usage: &Usage) {
        self.usage.borrow_mut().push(usage.clone());
    }

    fn store_artifact(
        &self,
        path: &str,
        _content_type: &str,
        body: &[u8],
    ) -> Result<String, ArtifactError> {
        self.artifacts.borrow_mut().insert(path.into(), body.into());
        Ok(format!("artifact:{path}"))
    }

    fn read_artifact(&self, url: &str) -> Result<Vec<u8>, ArtifactError> {
        let path = url.strip_prefix("artifact:").unwrap_or(url);
        let artifacts = self.artifacts.borrow();
        artifacts.get(path).cloned().ok_or(ArtifactError::NotFound)
    }

    fn stop(&self) -> Option<StopReason> {
        self.stopping.get()
    }

    fn sleep(&self, duration: Duration) -> Result<(), Interrupted> {
        if let Some(reason) = self.stopping.get() {
            return Err(Interrupted(reason));
        }
        self.slept.set(self.slept.get().saturating_add(duration));
        Ok(())
    }

    fn send(&self, request: &Request) -> Result<Response, Error> {
        self.requests.borrow_mut().push(request.clone());
        if let Some(reason) = self.stopping.get() {
            return Err(Error::Interrupted(reason));
        }
        match self.answers.borrow_mut().pop_front() {
            Some(answer) => answer,
            None => Err(Error::Unreachable("the test has no further answer".into())),
        }
    }
}
