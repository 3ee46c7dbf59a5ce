//! Sorts what came back from the worker by who can help.

use cogo_executor::Failure;
use cogo_executor::http::{BaseUrl, Error, Response};
use cogo_executor::json::Object;
use cogo_executor::payload::Role;

use crate::report::Finished;

/// How much of a worker's own words a failure repeats, in characters.
const MAX_WORDS: usize = 300;

/// The report of an answer, or the failure it stands for.
pub(crate) fn sort(
    role: Role,
    worker: &BaseUrl,
    answer: Result<Response, Error>,
) -> Result<Finished, Failure> {
    let answer = answer.map_err(|error| unanswered(worker, error))?;
    let code = match answer.status {
        200..=299 => return finished(role, worker, &answer),
        300..=399 => return Err(redirected(worker, &answer)),
        408 => "worker_timeout",
        409 | 425 | 429 => "worker_busy",
        500..=599 => "worker_error",
        400..=499 => return Err(Failure::permanent("worker_rejected", told(worker, &answer))),
        _ => "bad_response",
    };
    Err(Failure::retryable(code, told(worker, &answer)).retry_after(answer.retry_after()))
}

fn finished(role: Role, worker: &BaseUrl, answer: &Response) -> Result<Finished, Failure> {
    let body = match answer.body() {
        Ok(body) => body,
        Err(error) => return Err(unanswered(worker, error.clone())),
    };
    Finished::read(role, worker, body).map_err(|error| {
        let message = format!(
            "the worker at {} answered {} without a valid report: {error}",
            worker.origin(),
            answer.status
        );
        Failure::retryable("bad_response", message)
    })
}

pub(crate) fn unanswered(worker: &BaseUrl, error: Error) -> Failure {
    let message = format!("the worker at {}: {error}", worker.origin());
    match error {
        Error::Interrupted(_) => Failure::Interrupted,
        Error::Unreachable(_) => Failure::retryable("worker_unreachable", message),
        Error::Timeout(_) => Failure::retryable("worker_timeout", message),
        Error::Protocol(_) | Error::TooLarge(_) => Failure::retryable("bad_response", message),
        Error::Invalid(_) => Failure::permanent("request_invalid", message),
        Error::Denied(_) => Failure::permanent(
            "egress_denied",
            format!(
                "{message}; add \"config:COGO_WORKER_URL\" to the allow list of [plugin.cogo-worker]"
            ),
        ),
    }
}

fn redirected(worker: &BaseUrl, answer: &Response) -> Failure {
    let target = match answer.header("location") {
        Some(location) => bounded(location),
        None => "nowhere".into(),
    };
    let message = format!(
        "the worker at {} answered {}, a redirect to {target}, which is not followed; \
         COGO_WORKER_URL should be the URL of the worker itself",
        worker.origin(),
        answer.status
    );
    Failure::permanent("worker_rejected", message)
}

pub(crate) fn told(worker: &BaseUrl, answer: &Response) -> String {
    let said = format!(
        "the worker at {} answered {}",
        worker.origin(),
        answer.status
    );
    match words(answer.body_so_far()) {
        words if words.is_empty() => said,
        words => format!("{said}: {words}"),
    }
}

/// The worker's own explanation: what the usual error bodies hold, else the
/// beginning of the text.
fn words(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    match Object::parse(&text, "error") {
        Ok(object) => bounded(&explanation(&object).unwrap_or_else(|| text.to_string())),
        Err(_) => bounded(&text),
    }
}

/// `{"error":{"message":…}}`, or a text under `error`, `message` or `detail`.
fn explanation(object: &Object<'_>) -> Option<String> {
    if let Ok(Some(error)) = object.object("error") {
        return error.optional("message").ok()?;
    }
    ["error", "message", "detail"]
        .iter()
        .find_map(|key| object.optional::<String>(key).ok().flatten())
}

/// One line of bounded length.
fn bounded(text: &str) -> String {
    let line = text.split(|letter: char| letter.is_whitespace() || letter.is_control());
    let line = line
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ");
    match line.char_indices().nth(MAX_WORDS) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use cogo_executor::StopReason;

    use super::*;

    const VALID: &str = r#"{"passed":true,"tests":3,"failures":0,"duration_ms":12}"#;

    fn worker() -> BaseUrl {
        BaseUrl::parse("http://worker:8080").expect("a URL")
    }

    fn sorted(answer: Result<Response, Error>) -> Result<Finished, Failure> {
        sort(Role::BuildTest, &worker(), answer)
    }

    /// `retryable` or `permanent`, the code, and the pause.
    fn failure(answer: Result<Response, Error>) -> (&'static str, String, Option<u64>) {
        match sorted(answer) {
            Err(Failure::Retryable(problem)) => ("retryable", problem.code, problem.retry_after_ms),
            Err(Failure::Permanent(problem)) => ("permanent", problem.code, problem.retry_after_ms),
            other => panic!("expected a failure with a problem, got {other:?}"),
        }
    }

    fn message(answer: Result<Response, Error>) -> String {
        match sorted(answer) {
            Err(Failure::Retryable(problem) | Failure::Permanent(problem)) => problem.message,
            other => panic!("expected a failure with a problem, got {other:?}"),
        }
    }

    #[test]
    fn every_status_has_its_class() {
        for (statuses, class, code) in [
            (
                &[300, 301, 302, 303, 304, 307, 308][..],
                "permanent",
                "worker_rejected",
            ),
            (
                &[400, 401, 403, 404, 405, 410, 413, 415, 422, 451],
                "permanent",
                "worker_rejected",
            ),
            (&[408], "retryable", "worker_timeout"),
            (&[409, 425, 429], "retryable", "worker_busy"),
            (
                &[500, 501, 502, 503, 504, 507, 599],
                "retryable",
                "worker_error",
            ),
            (&[100, 199, 600, 999], "retryable", "bad_response"),
            // Without a body these are no reports, however successful.
            (&[200, 202, 204, 206], "retryable", "bad_response"),
        ] {
            for status in statuses {
                assert_eq!(
                    failure(Ok(Response::new(*status))),
                    (class, code.into(), None),
                    "{status}"
                );
            }
        }
    }

    #[test]
    fn every_way_to_get_no_answer_has_its_class() {
        let words = || "why".to_owned();
        for (error, class, code) in [
            (
                Error::Unreachable(words()),
                "retryable",
                "worker_unreachable",
            ),
            (Error::Timeout(words()), "retryable", "worker_timeout"),
            (Error::Protocol(words()), "retryable", "bad_response"),
            (Error::TooLarge(1), "retryable", "bad_response"),
            (Error::Invalid(words()), "permanent", "request_invalid"),
            (Error::Denied(words()), "permanent", "egress_denied"),
        ] {
            assert_eq!(failure(Err(error.clone())), (class, code.into(), None));
            // The same when it strikes in the middle of a good answer's body.
            let cut = Response::new(200).with_body(VALID).cut_by(error);
            assert_eq!(failure(Ok(cut)), (class, code.into(), None));
        }
        assert_eq!(
            sorted(Err(Error::Interrupted(StopReason::Draining))),
            Err(Failure::Interrupted)
        );
    }

    #[test]
    fn any_success_with_a_report_is_one() {
        for status in [200, 201, 202, 299] {
            assert!(
                sorted(Ok(Response::new(status).with_body(VALID))).is_ok(),
                "{status}"
            );
        }
    }

    #[test]
    fn an_error_page_cut_short_keeps_its_status() {
        let answer = Response::new(503)
            .with_body("<html>")
            .cut_by(Error::TooLarge(6));
        assert_eq!(failure(Ok(answer)).1, "worker_error");
    }

    #[test]
    fn the_wish_for_a_pause_is_passed_on() {
        for status in [408, 409, 425, 429, 500, 503] {
            let answer = Response::new(status).with_header("Retry-After", "7");
            assert_eq!(failure(Ok(answer)).2, Some(7_000), "{status}");
        }
        let dated = Response::new(429)
            .with_header("Date", "Tue, 24 Mar 2026 12:00:00 GMT")
            .with_header("Retry-After", "Tue, 24 Mar 2026 12:00:30 GMT");
        assert_eq!(failure(Ok(dated)).2, Some(30_000));
    }

    #[test]
    fn the_worker_explains_itself_in_its_own_words() {
        for (body, expected) in [
            (
                r#"{"error":{"code":"x","message":"no such repo"}}"#,
                "no such repo",
            ),
            (r#"{"error":"no such repo"}"#, "no such repo"),
            (r#"{"detail":"no such repo"}"#, "no such repo"),
            (r#"{"reason":1}"#, r#"{"reason":1}"#),
            ("no\r\n\tsuch\u{1b}[31m repo\n", "no such [31m repo"),
        ] {
            let message = message(Ok(Response::new(422).with_body(body)));
            assert_eq!(
                message,
                format!("the worker at http://worker:8080 answered 422: {expected}")
            );
        }
        assert_eq!(
            message(Ok(Response::new(404))),
            "the worker at http://worker:8080 answered 404"
        );
    }

    #[test]
    fn long_words_are_cut() {
        let body = format!(r#"{{"error":"{}"}}"#, "é".repeat(100_000));
        let message = message(Ok(Response::new(400).with_body(body)));
        assert!(
            message.ends_with("é…") && message.chars().count() < MAX_WORDS + 60,
            "{message}"
        );
    }

    #[test]
    fn a_redirect_says_where_to() {
        let answer = Response::new(302).with_header("Location", "https://elsewhere/");
        let message = message(Ok(answer));
        assert!(
            message.contains("a redirect to https://elsewhere/, which is not followed"),
            "{message}"
        );
    }

    #[test]
    fn a_denied_call_says_what_to_grant() {
        let message = message(Err(Error::Denied(
            "the host does not allow this request".into(),
        )));
        assert!(
            message
                .contains(r#""config:COGO_WORKER_URL" to the allow list of [plugin.cogo-worker]"#),
            "{message}"
        );
    }
}
