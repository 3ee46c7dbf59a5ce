//! What one attempt of a plugin may use, and what makes it hold.
//!
//! [`Limits`] is plain data. [`MemoryLimiter`] counts what an instance takes in
//! all its memories together; [`TimeBudget`] is the one place where wall time and
//! epochs meet.

use std::time::{Duration, Instant};

use serde::Serialize;
use wasmtime::{ResourceLimiter, UpdateDeadline};

/// The limits of one attempt. Sizes are bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// All linear memories together.
    pub memory_bytes: usize,
    /// Core instances of the component.
    pub instances: u32,
    pub memories: u32,
    pub tables: u32,
    /// Of each table.
    pub table_elements: usize,
    /// What one call between guest and host may copy.
    pub hostcall_bytes: usize,
    /// Handles to host resources that are alive at once.
    pub handles: usize,
    /// The strings of a report together.
    pub result_bytes: usize,
    /// A failure's message; what is longer is cut.
    pub message_bytes: usize,
    pub log: LogLimits,
    pub outbound: OutboundLimits,
    pub artifacts: ArtifactLimits,
    /// Attempts of the plugin at the same time.
    pub concurrency: usize,
    /// How long an attempt may run where its route says nothing.
    #[serde(rename = "deadline_ms", serialize_with = "as_millis")]
    pub deadline: Duration,
}

/// The attempt's log, standard output included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogLimits {
    pub record_bytes: usize,
    pub records: usize,
    pub bytes: usize,
    pub per_second: u32,
}

/// Requests that a plugin sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OutboundLimits {
    /// Of one attempt.
    pub requests: u32,
    /// Of all attempts of the plugin at the same time.
    pub concurrency: usize,
    pub request_body_bytes: usize,
    /// As it comes over the wire: nothing is decompressed.
    pub response_body_bytes: usize,
    pub headers: usize,
    pub header_bytes: usize,
    /// Name resolution and TLS included.
    #[serde(rename = "connect_ms", serialize_with = "as_millis")]
    pub connect: Duration,
    /// Between two pieces of a body, where the guest asks for nothing else.
    #[serde(rename = "between_bytes_ms", serialize_with = "as_millis")]
    pub between_bytes: Duration,
}

/// Artifacts of one attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ArtifactLimits {
    pub count: usize,
    pub bytes: u64,
}

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

impl Limits {
    pub const DEFAULT: Self = Self {
        memory_bytes: 128 * MIB,
        instances: 32,
        memories: 8,
        tables: 16,
        table_elements: 20_000,
        hostcall_bytes: 8 * MIB,
        handles: 1_000,
        result_bytes: MIB,
        message_bytes: 8 * KIB,
        log: LogLimits {
            record_bytes: 8 * KIB,
            records: 1_000,
            bytes: 256 * KIB,
            per_second: 200,
        },
        outbound: OutboundLimits {
            requests: 64,
            concurrency: 8,
            request_body_bytes: 8 * MIB,
            response_body_bytes: 8 * MIB,
            headers: 100,
            header_bytes: 64 * KIB,
            connect: Duration::from_secs(2),
            between_bytes: Duration::from_secs(5),
        },
        artifacts: ArtifactLimits {
            count: 64,
            bytes: 32 * MIB as u64,
        },
        concurrency: 16,
        deadline: Duration::from_secs(70),
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

fn as_millis<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(crate::millis::millis(*duration))
}

/// Counts memory as it is granted, over all memories of a store.
#[derive(Debug)]
pub(crate) struct MemoryLimiter {
    budget: usize,
    used: usize,
    peak: usize,
    /// What the last growth added, should it fail after it was granted.
    granted: usize,
    instances: u32,
    memories: u32,
    tables: u32,
    table_elements: usize,
    refused: Option<Refused>,
}

/// What was asked for and not granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    Memory { wanted: usize },
    Table { wanted: usize },
}

impl MemoryLimiter {
    pub(crate) const fn new(limits: &Limits) -> Self {
        Self {
            budget: limits.memory_bytes,
            used: 0,
            peak: 0,
            granted: 0,
            instances: limits.instances,
            memories: limits.memories,
            tables: limits.tables,
            table_elements: limits.table_elements,
            refused: None,
        }
    }

    /// The most that was granted at once, in bytes.
    pub(crate) const fn peak(&self) -> usize {
        self.peak
    }

    /// Set once a growth was refused. A guest may live with it; one that traps
    /// afterwards is taken to have died of it.
    pub(crate) const fn refused(&self) -> Option<Refused> {
        self.refused
    }
}

impl ResourceLimiter for MemoryLimiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let added = desired.saturating_sub(current);
        let wanted = self.used.saturating_add(added);
        if wanted > self.budget {
            self.refused = Some(Refused::Memory { wanted });
            return Ok(false);
        }
        self.used = wanted;
        self.granted = added;
        self.peak = self.peak.max(wanted);
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.used = self.used.saturating_sub(self.granted);
        self.granted = 0;
        Ok(())
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if desired > self.table_elements {
            self.refused = Some(Refused::Table { wanted: desired });
            return Ok(false);
        }
        Ok(true)
    }

    fn instances(&self) -> usize {
        self.instances as usize
    }

    fn tables(&self) -> usize {
        self.tables as usize
    }

    fn memories(&self) -> usize {
        self.memories as usize
    }
}

/// When an attempt must be over, and when its guest is told so.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TimeBudget {
    pub(crate) start: Instant,
    /// `host.stop` answers `deadline` from here on.
    pub(crate) notice: Instant,
    /// Nothing of the attempt runs after this.
    pub(crate) end: Instant,
}

impl TimeBudget {
    /// A budget that starts now. The guest is told `grace` before its end, or
    /// when three quarters have passed where that is later.
    pub(crate) fn starting(start: Instant, deadline: Duration, grace: Duration) -> Self {
        let grace = grace.min(deadline / 4);
        let end = start
            .checked_add(deadline)
            .unwrap_or_else(|| start + Duration::from_secs(365 * 24 * 3600));
        Self {
            start,
            notice: end.checked_sub(grace).unwrap_or(end),
            end,
        }
    }

    /// What happens to a guest at a tick of the epoch: it gives way to others,
    /// and is trapped once its time is up.
    pub(crate) fn tick(self) -> UpdateDeadline {
        if Instant::now() >= self.end {
            UpdateDeadline::Interrupt
        } else {
            // The runtime's own yield: the engine's would be polled again before
            // timers and sockets are.
            UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_that_of_all_memories_together() {
        let mut limiter = MemoryLimiter::new(&Limits {
            memory_bytes: 100,
            ..Limits::DEFAULT
        });
        assert!(limiter.memory_growing(0, 60, None).unwrap());
        assert!(limiter.memory_growing(0, 40, None).unwrap());
        assert!(!limiter.memory_growing(40, 41, None).unwrap());
        assert_eq!(limiter.peak(), 100);
        assert_eq!(limiter.refused(), Some(Refused::Memory { wanted: 101 }));
    }

    #[test]
    fn a_growth_that_fails_later_is_given_back() {
        let mut limiter = MemoryLimiter::new(&Limits {
            memory_bytes: 100,
            ..Limits::DEFAULT
        });
        assert!(limiter.memory_growing(0, 100, None).unwrap());
        limiter
            .memory_grow_failed(wasmtime::Error::msg("no pages"))
            .unwrap();
        assert!(limiter.memory_growing(0, 100, None).unwrap());
    }

    #[test]
    fn the_notice_comes_before_the_end() {
        let start = Instant::now();
        let long = TimeBudget::starting(start, Duration::from_secs(70), Duration::from_secs(2));
        assert_eq!(long.end - long.notice, Duration::from_secs(2));
        let short = TimeBudget::starting(start, Duration::from_millis(400), Duration::from_secs(2));
        assert_eq!(short.end - short.notice, Duration::from_millis(100));
    }
}
