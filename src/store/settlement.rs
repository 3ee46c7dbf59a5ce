//! What is written when an attempt ends, and what became of it.
//!
//! Decides nothing: the next state comes from [`crate::task::next_state`].

use crate::attempt::{AttemptRecord, Fence, StagedArtifact};
use crate::event::NewEvent;
use crate::task::{NewTask, Next};

/// The write that ends an attempt: the row's next state, the attempt's record
/// and the events, all in one transaction, or refused as a whole.
#[derive(Debug, Clone)]
pub struct Settlement {
    pub fence: Fence,
    pub next: Next,
    pub attempt: AttemptRecord,
    pub events: Vec<NewEvent>,
    /// Become visible with the settlement.
    pub artifacts: Vec<StagedArtifact>,
    /// Goes on the bus with the settlement, at the priority of this row.
    pub forward: Option<Box<NewTask>>,
}

/// What became of a [`Settlement`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    Applied,
    /// The row is no longer held under this fence: nothing was written but the
    /// `lease_lost` event.
    LeaseLost,
}
