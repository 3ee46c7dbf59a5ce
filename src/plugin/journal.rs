//! What is written down about one attempt while it runs: log lines, spans, and
//! how many requests it sent.
//!
//! Shared by everything that works for the attempt. It never grows beyond the
//! attempt's [`LogLimits`] and never blocks on anything but its own short lock.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use crate::attempt::{Denial, LogLevel, LogLine, Span};
use crate::plugin::limits::LogLimits;
use crate::plugin::text;

/// Hears the lines of an attempt's log while it runs. Must not block.
pub type LogTap = Arc<dyn Fn(&LogLine) + Send + Sync>;

/// The record of one attempt.
pub(crate) struct Journal {
    start: Instant,
    limits: LogLimits,
    tap: Option<LogTap>,
    // Held for a few instructions at a time, never across an await.
    inner: Mutex<Entries>,
}

/// What a [`Journal`] holds in the end.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    pub(crate) log: Vec<LogLine>,
    pub(crate) dropped: u32,
    pub(crate) spans: Vec<Span>,
    pub(crate) requests: u32,
    pub(crate) denied: BTreeMap<Denial, u32>,
    log_bytes: usize,
    /// The second that `in_second` counts.
    second: u64,
    in_second: u32,
    /// Spans that have not ended.
    open: Vec<usize>,
}

/// A span that was begun.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OpenSpan(usize);

pub(crate) type Fields = BTreeMap<String, String>;

impl Journal {
    pub(crate) fn new(start: Instant, limits: LogLimits) -> Self {
        Self {
            start,
            limits,
            tap: None,
            inner: Mutex::default(),
        }
    }

    /// The same with somebody who listens.
    pub(crate) fn tapped(mut self, tap: Option<LogTap>) -> Self {
        self.tap = tap;
        self
    }

    fn now_us(&self) -> u64 {
        micros(self.start.elapsed())
    }

    /// Adds a guest's line, within the limits.
    pub(crate) fn log(&self, level: LogLevel, message: String) {
        let at_us = self.now_us();
        let mut entries = self.inner.lock();
        if !entries.admits(at_us, message.len(), &self.limits) {
            entries.dropped = entries.dropped.saturating_add(1);
            return;
        }
        let message = text::cut(text::printable(message), self.limits.record_bytes);
        entries.log_bytes = entries.log_bytes.saturating_add(message.len());
        self.write(entries, level, at_us, message);
    }

    fn write(
        &self,
        mut entries: MutexGuard<'_, Entries>,
        level: LogLevel,
        at_us: u64,
        message: String,
    ) {
        let line = LogLine {
            at_us,
            level,
            message,
        };
        let heard = self.tap.as_ref().map(|tap| (tap, line.clone()));
        entries.log.push(line);
        drop(entries);
        if let Some((tap, line)) = heard {
            tap(&line);
        }
    }

    /// Adds a line of the host's own. There are at most a few for each request,
    /// so a guest's flood does not push them out.
    pub(crate) fn note(&self, level: LogLevel, message: String) {
        let at_us = self.now_us();
        let message = text::cut(text::printable(message), self.limits.record_bytes);
        self.write(self.inner.lock(), level, at_us, message);
    }

    /// Counts one more request, unless that is more than `max`.
    pub(crate) fn count_request(&self, max: u32) -> bool {
        let mut entries = self.inner.lock();
        let allowed = entries.requests < max;
        if allowed {
            entries.requests += 1;
        }
        allowed
    }

    /// Counts a request that does not go out.
    pub(crate) fn count_denied(&self, denial: Denial) {
        let mut entries = self.inner.lock();
        let times = entries.denied.entry(denial).or_default();
        *times = times.saturating_add(1);
    }

    pub(crate) fn open(&self, name: &'static str, fields: Fields) -> OpenSpan {
        let start_us = self.now_us();
        let mut entries = self.inner.lock();
        let index = entries.spans.len();
        entries.spans.push(Span {
            name: Cow::Borrowed(name),
            start_us,
            duration_us: 0,
            fields,
        });
        entries.open.push(index);
        OpenSpan(index)
    }

    pub(crate) fn close(&self, span: OpenSpan, fields: Fields) {
        let now = self.now_us();
        let mut entries = self.inner.lock();
        entries.open.retain(|index| *index != span.0);
        // Gone when the journal was taken before a late request ended.
        if let Some(span) = entries.spans.get_mut(span.0) {
            span.duration_us = now.saturating_sub(span.start_us);
            span.fields.extend(fields);
        }
    }

    /// Adds what is known of a span before it ends.
    pub(crate) fn annotate(&self, span: OpenSpan, field: &str, value: String) {
        if let Some(span) = self.inner.lock().spans.get_mut(span.0) {
            span.fields.insert(field.to_owned(), value);
        }
    }

    /// What was written so far; spans that have not ended are aborted ones.
    pub(crate) fn take(&self) -> Entries {
        let now = self.now_us();
        let mut entries = std::mem::take(&mut *self.inner.lock());
        for index in std::mem::take(&mut entries.open) {
            if let Some(span) = entries.spans.get_mut(index) {
                span.duration_us = now.saturating_sub(span.start_us);
                span.fields.insert("error".to_owned(), "aborted".to_owned());
            }
        }
        entries
    }
}

impl Entries {
    fn admits(&mut self, at_us: u64, bytes: usize, limits: &LogLimits) -> bool {
        let second = at_us / 1_000_000;
        if second != self.second {
            self.second = second;
            self.in_second = 0;
        }
        self.in_second = self.in_second.saturating_add(1);
        let bytes = bytes.min(limits.record_bytes);
        self.in_second <= limits.per_second
            && self.log.len() < limits.records
            && self.log_bytes.saturating_add(bytes) <= limits.bytes
    }
}

/// A duration as whole microseconds.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::limits::Limits;

    fn journal(limits: LogLimits) -> Journal {
        Journal::new(Instant::now(), limits)
    }

    #[test]
    fn a_log_keeps_to_its_bytes_and_counts_the_rest() {
        let journal = journal(LogLimits {
            bytes: 10,
            ..Limits::DEFAULT.log
        });
        for _ in 0..3 {
            journal.log(LogLevel::Info, "12345".to_owned());
        }
        let entries = journal.take();
        assert_eq!((entries.log.len(), entries.dropped), (2, 1));
    }

    #[test]
    fn a_flood_does_not_push_out_what_the_host_says() {
        let journal = journal(LogLimits {
            per_second: 1,
            records: 1,
            ..Limits::DEFAULT.log
        });
        for _ in 0..100 {
            journal.log(LogLevel::Info, "noise".to_owned());
        }
        journal.note(LogLevel::Warn, "refused".to_owned());
        let entries = journal.take();
        assert_eq!(entries.log.len(), 2);
        assert_eq!(entries.dropped, 99);
    }

    #[test]
    fn a_span_that_never_ends_is_an_aborted_one() {
        let journal = journal(Limits::DEFAULT.log);
        let done = journal.open("call", Fields::new());
        journal.close(done, Fields::new());
        let _pending = journal.open("http", Fields::new());
        let spans = journal.take().spans;
        assert_eq!(spans[0].fields.get("error"), None);
        assert_eq!(spans[1].fields["error"], "aborted");
    }
}
