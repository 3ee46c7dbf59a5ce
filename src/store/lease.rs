//! What a host asks of the tasks that it claims, renews and takes back, and what
//! it is told.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use crate::ids::{HolderId, MessageId};
use crate::rollout::Draw;
use crate::route::RouteKey;
use crate::task::Status;

/// What a host wants to claim.
#[derive(Debug, Clone)]
pub struct ClaimRequest<'a> {
    pub holder: &'a HolderId,
    /// How long the lease runs from the claim.
    pub lease: Duration,
    /// In the order in which they are served; the first may use up the limit.
    pub wants: Vec<Want>,
    /// At most this many in all.
    pub limit: u32,
}

/// One route that a host serves, and how many tasks of it fit now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    pub key: RouteKey,
    /// `None` serves every shard.
    pub shard: Option<i32>,
    /// `None` serves every tenant.
    pub tenant: Option<String>,
    pub limit: u32,
    /// Takes rows over that a foreign worker claimed longer ago than this and
    /// left without a lease. `None` leaves them alone.
    pub reclaim_foreign_after: Option<Duration>,
    /// What tasks draw their side from at their first claim in a rollout.
    pub draw: Option<Draw>,
}

/// What the database knows of a lease that was renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    Held,
    /// Held, and somebody asked to cancel the task.
    CancelRequested,
    Lost,
}

/// What became of a wish to cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Cancelled {
    /// It was waiting and is `failed` now.
    AtOnce,
    /// It is running; its holder will end it.
    Requested,
    /// It had ended before, so.
    Ended(Status),
}

/// A lease that was taken back.
#[derive(Debug, Clone, PartialEq)]
pub struct Rescued {
    pub id: MessageId,
    pub holder: Option<String>,
    /// `Queued` again, or `Failed` for good.
    pub status: Status,
}
