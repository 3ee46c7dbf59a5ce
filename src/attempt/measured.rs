//! What the sandbox measures of an attempt, and why it did not let a request out.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{LogLine, Span, Usage};

/// What the sandbox measured of one attempt.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Measured {
    pub run: Duration,
    /// How long it kept a thread of the guests busy.
    pub busy: Duration,
    pub usage: Usage,
    pub peak_memory_bytes: u64,
    /// All that it may make, whether they went out or not.
    pub outbound_requests: u32,
    /// Why how many requests did not go out.
    pub outbound_denied: BTreeMap<Denial, u32>,
    pub spans: Vec<Span>,
    pub log: Vec<LogLine>,
    /// Lines that went over the log's limits.
    pub log_dropped: u32,
}

impl Measured {
    /// How many requests went out.
    pub fn outbound_allowed(&self) -> u32 {
        let counted = self
            .outbound_denied
            .iter()
            .filter(|(denial, _)| **denial != Denial::TooMany)
            .map(|(_, times)| *times);
        self.outbound_requests
            .saturating_sub(counted.fold(0, u32::saturating_add))
    }

    /// How many requests were refused for what they would do.
    pub fn effects_refused(&self) -> u32 {
        let refused = self.outbound_denied.get(&Denial::SideEffect);
        refused.copied().unwrap_or(0)
    }
}

/// Why the host did not let a request of a guest out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Denial {
    /// The attempt had made all that it may; not among its requests.
    TooMany,
    /// More headers than a request may have.
    TooManyHeaders,
    /// It would have changed something, from a shadow that must not.
    SideEffect,
    /// Its URL names no origin that a request could go to.
    NoOrigin,
    /// No grant of the operator covers it.
    NotGranted,
    /// The plugin's own list does not.
    NotDeclared,
    /// A private address that nobody named exactly.
    PrivateAddress,
    /// An address that no plugin may reach.
    ForbiddenAddress,
}

impl Denial {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TooMany => "too_many",
            Self::TooManyHeaders => "too_many_headers",
            Self::SideEffect => "side_effect",
            Self::NoOrigin => "no_origin",
            Self::NotGranted => "not_granted",
            Self::NotDeclared => "not_declared",
            Self::PrivateAddress => "private_address",
            Self::ForbiddenAddress => "forbidden_address",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_was_denied_did_not_go_out() {
        let measured = Measured {
            outbound_requests: 5,
            outbound_denied: [
                (Denial::NotGranted, 2),
                (Denial::SideEffect, 1),
                // Never counted among the requests.
                (Denial::TooMany, 40),
            ]
            .into(),
            ..Measured::default()
        };
        assert_eq!(measured.outbound_allowed(), 2);
        assert_eq!(measured.effects_refused(), 1);
        assert_eq!(Measured::default().outbound_allowed(), 0);
    }
}
