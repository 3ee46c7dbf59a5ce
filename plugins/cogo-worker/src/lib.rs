//! Runs tasks on a `cogo-worker`, a service that does the work behind a REST
//! interface.
//!
//! For each task one request, `POST {COGO_WORKER_URL}/run/…`, with the task's
//! idempotency key, so that a worker joins or replays a run that it knows. What
//! comes back is sorted by who can help: a worker that is down, slow or busy gets
//! another attempt later, a request that it refuses does not.
//!
//! | the worker | failure | code |
//! | --- | --- | --- |
//! | cannot be reached, breaks off | retryable | `worker_unreachable` |
//! | takes too long, or answers 408 | retryable | `worker_timeout` |
//! | answers 409, 425, 429 | retryable | `worker_busy` |
//! | answers 5xx | retryable | `worker_error` |
//! | answers 2xx without a valid report, or no HTTP | retryable | `bad_response` |
//! | answers 3xx or another 4xx | permanent | `worker_rejected` |
//! | may not be called by this plugin | permanent | `egress_denied` |
//! | is not configured, or wrongly | permanent | `config_missing`, `config_invalid` |
//! | wrote edits that are none | permanent | `invalid_edits`, `edits_digest_mismatch`, `edits_too_large`, `edit_outside_tree` |
//! | has no edits where it links them | permanent | `edits_missing` |
//!
//! `Retry-After` is passed on with every retryable answer.

mod answer;
mod edits;
mod job;
mod report;
mod settings;

use cogo_executor::payload::{self, Role};
use cogo_executor::{Descriptor, Executor, Failure, Host, Kind, Outcome, Report, Task};

use job::Job;
use settings::{Settings, TIMEOUT_KEY, URL_KEY};

/// The plugin.
pub struct CogoWorker;

impl Executor for CogoWorker {
    fn describe() -> Descriptor {
        Descriptor::new("cogo-worker", env!("CARGO_PKG_VERSION"), Kind::Real)
            .handling(Role::ALL.map(Role::path))
            .reading([URL_KEY, TIMEOUT_KEY])
            .calling(["config:COGO_WORKER_URL"])
    }

    fn execute(task: Task, host: &impl Host) -> Result<Outcome, Failure> {
        let role = Role::of(&task.route)?;
        let object = payload::parse(&task)?;
        let job = Job::new(role, &task, &object)?;
        let settings = Settings::read(host, task.deadline_ms)?;
        let request = job.request(&settings)?;
        host.progress(None, "running on the worker");
        let answer = host.send(&request);
        let mut finished = answer::sort(role, &settings.worker, answer)?;
        if let Some(usage) = &finished.usage {
            host.report_usage(usage);
        }
        if let Report::Codegen(report) = &mut finished.report {
            edits::keep(report, &settings.worker, host)?;
        }
        Ok(finished.into())
    }
}

cogo_executor::export!(CogoWorker);
