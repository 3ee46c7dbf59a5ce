//! Where the worker is and how long it may take.

use std::time::Duration;

use cogo_executor::http::BaseUrl;
use cogo_executor::{Failure, Host};

pub(crate) const URL_KEY: &str = "COGO_WORKER_URL";
pub(crate) const TIMEOUT_KEY: &str = "COGO_WORKER_TIMEOUT_MS";

/// Build-tests are slow.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
/// Left of the attempt's time to say what happened: with it the plugin ends as
/// `worker_timeout`, without it the host ends the plugin.
const RESERVE: Duration = Duration::from_millis(500);

/// What an attempt needs to know of the worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) worker: BaseUrl,
    pub(crate) timeout: Duration,
}

impl Settings {
    /// Reads the configuration; `deadline_ms` is what the attempt has left.
    pub(crate) fn read(host: &impl Host, deadline_ms: u64) -> Result<Self, Failure> {
        let Some(url) = host.config(URL_KEY).filter(|url| !url.trim().is_empty()) else {
            return Err(Failure::permanent(
                "config_missing",
                format!("{URL_KEY} is not set for this plugin; it is the URL of the cogo-worker"),
            ));
        };
        let worker = BaseUrl::parse(&url).map_err(|error| invalid(URL_KEY, &error.to_string()))?;
        let timeout = match host.config(TIMEOUT_KEY) {
            Some(text) => timeout(&text)?,
            None => DEFAULT_TIMEOUT,
        };
        let left = Duration::from_millis(deadline_ms).saturating_sub(RESERVE);
        Ok(Self {
            worker,
            timeout: timeout.min(left.max(Duration::from_millis(1))),
        })
    }
}

fn timeout(text: &str) -> Result<Duration, Failure> {
    match text.trim().parse() {
        Ok(milliseconds @ 1_u64..) => Ok(Duration::from_millis(milliseconds)),
        Ok(0) | Err(_) => Err(invalid(
            TIMEOUT_KEY,
            "it is no whole number of milliseconds above 0",
        )),
    }
}

fn invalid(key: &str, complaint: &str) -> Failure {
    Failure::permanent(
        "config_invalid",
        format!("{key} cannot be used: {complaint}"),
    )
}

#[cfg(test)]
mod tests {
    use cogo_executor::testing::FakeHost;

    use super::*;

    fn read(
        url: Option<&str>,
        timeout: Option<&str>,
        deadline_ms: u64,
    ) -> Result<Settings, String> {
        let mut host = FakeHost::new();
        for (key, value) in [(URL_KEY, url), (TIMEOUT_KEY, timeout)] {
            if let Some(value) = value {
                host = host.with_config(key, value);
            }
        }
        Settings::read(&host, deadline_ms).map_err(|failure| match failure {
            Failure::Permanent(problem) => format!("{}: {}", problem.code, problem.message),
            other => panic!("configuration does not heal by itself: {other:?}"),
        })
    }

    #[test]
    fn the_shorter_of_timeout_and_deadline_counts() {
        for (timeout, deadline_ms, expected_ms) in [
            (None, 70_000, 60_000),
            (Some("2500"), 70_000, 2_500),
            (Some(" 2500 "), 70_000, 2_500),
            (Some("60000"), 10_000, 9_500),
            (Some("60000"), 100, 1),
            (Some("18446744073709551615"), 10_000, 9_500),
        ] {
            let settings = read(Some("http://w"), timeout, deadline_ms).expect("valid");
            assert_eq!(
                settings.timeout,
                Duration::from_millis(expected_ms),
                "{timeout:?}"
            );
        }
    }

    #[test]
    fn wrong_configuration_is_named() {
        for (url, timeout, expected) in [
            (None, None, "config_missing: COGO_WORKER_URL is not set"),
            (
                Some("  "),
                None,
                "config_missing: COGO_WORKER_URL is not set",
            ),
            (
                Some("worker:80"),
                None,
                "config_invalid: COGO_WORKER_URL cannot be used: it does not begin",
            ),
            (
                Some("ftp://w"),
                None,
                "config_invalid: COGO_WORKER_URL cannot be used: it is neither",
            ),
            (
                Some("http://w"),
                Some("0"),
                "config_invalid: COGO_WORKER_TIMEOUT_MS cannot be used",
            ),
            (
                Some("http://w"),
                Some("-1"),
                "config_invalid: COGO_WORKER_TIMEOUT_MS cannot be used",
            ),
            (
                Some("http://w"),
                Some("1m"),
                "config_invalid: COGO_WORKER_TIMEOUT_MS cannot be used",
            ),
        ] {
            let error = read(url, timeout, 70_000).expect_err(expected);
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
