//! Fetches the edits that the worker wrote, so that they lie with the task's
//! artifacts when the worker has long forgotten them.
//!
//! A worker replays a run that it knows: what is wrong with its edits is wrong
//! again on the next attempt, so only a fetch that failed is retried.

use std::time::Duration;

use cogo_edits::{Edits, MAX_BYTES};
use cogo_executor::http::{BaseUrl, Error, Request, Response};
use cogo_executor::{CodegenReport, Failure, Host};

use crate::answer::{told, unanswered};

/// Under the artifacts of the task.
const PATH: &str = "edits.json";
/// The document lies ready; within what is left of an attempt whose run took
/// all the time it may.
const TIMEOUT: Duration = Duration::from_secs(9);

/// Checks and keeps the edits that `report` links, and links what was kept.
pub(crate) fn keep(
    report: &mut CodegenReport,
    worker: &BaseUrl,
    host: &impl Host,
) -> Result<(), Failure> {
    host.progress(None, "fetching the edits");
    let request = Request::get(report.edits_url.as_str())
        .header("accept", "application/json")
        .timeout(TIMEOUT)
        .max_response_bytes(MAX_BYTES);
    let document = fetched(&report.edits_url, worker, host.send(&request))?;
    let edits = Edits::parse(&document).map_err(|error| {
        let message = format!(
            "the edits that the worker at {} wrote cannot be used: {error}",
            worker.origin()
        );
        Failure::permanent(error.code(), message)
    })?;
    report.edits_url = host.store_artifact(PATH, "application/json", &document)?;
    report.files = u32::try_from(edits.edits().len()).unwrap_or(u32::MAX);
    Ok(())
}

fn fetched(
    url: &str,
    worker: &BaseUrl,
    answer: Result<Response, Error>,
) -> Result<Vec<u8>, Failure> {
    let answer = match answer {
        Ok(answer) => answer,
        Err(Error::Denied(why)) => return Err(elsewhere(url, worker, &why)),
        Err(error) => return Err(unanswered(worker, error)),
    };
    match answer.status {
        200 => {}
        404 | 410 => {
            let message = format!("{} for the edits it had just linked", told(worker, &answer));
            return Err(Failure::permanent("edits_missing", message));
        }
        408 | 425 | 429 | 500..=599 => {
            let failure = Failure::retryable("worker_error", told(worker, &answer));
            return Err(failure.retry_after(answer.retry_after()));
        }
        _ => {
            let message = format!("{} instead of the edits", told(worker, &answer));
            return Err(Failure::permanent("worker_rejected", message));
        }
    }
    match answer.body() {
        Ok(body) => Ok(body.to_vec()),
        Err(Error::TooLarge(limit)) => Err(Failure::permanent(
            "edits_too_large",
            format!(
                "the edits of the worker at {} have more than {limit} bytes",
                worker.origin()
            ),
        )),
        Err(error) => Err(unanswered(worker, error.clone())),
    }
}

fn elsewhere(url: &str, worker: &BaseUrl, why: &str) -> Failure {
    let message = format!(
        "the worker linked its edits at {url}, where this plugin may not fetch them ({why}); \
         have it link them at {}, its COGO_WORKER_URL",
        worker.origin()
    );
    Failure::permanent("egress_denied", message)
}
