//! `Retry-After`, in both of its forms.

use std::time::Duration;

/// The pause a peer asks for. `value` is the header; `date` is when the answer
/// was made, without which a date in `value` says nothing.
pub(super) fn pause(value: &str, date: Option<&str>) -> Option<Duration> {
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // More seconds than the type holds are still an answer: very long.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let then = httpdate::parse_http_date(value).ok()?;
    let now = httpdate::parse_http_date(date?).ok()?;
    // A moment that has passed asks for no pause.
    Some(then.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: &str = "Tue, 24 Mar 2026 12:00:00 GMT";

    #[test]
    fn seconds_and_dates_are_understood() {
        for (value, date, expected) in [
            ("0", None, Some(0)),
            ("120", None, Some(120)),
            ("99999999999999999999999", None, Some(u64::MAX)),
            ("Tue, 24 Mar 2026 12:01:30 GMT", Some(NOON), Some(90)),
            ("Tuesday, 24-Mar-26 12:01:30 GMT", Some(NOON), Some(90)),
            ("Tue Mar 24 12:01:30 2026", Some(NOON), Some(90)),
            ("Tue, 24 Mar 2026 11:00:00 GMT", Some(NOON), Some(0)),
            ("Tue, 24 Mar 2026 12:01:30 GMT", None, None),
            ("Tue, 24 Mar 2026 12:01:30 GMT", Some("yesterday"), None),
            ("", None, None),
            ("-5", None, None),
            ("1.5", None, None),
            ("soon", Some(NOON), None),
        ] {
            assert_eq!(
                pause(value, date),
                expected.map(Duration::from_secs),
                "{value:?} {date:?}"
            );
        }
    }
}
