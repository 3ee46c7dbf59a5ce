//! The parts of `agent_messages` in each of which an index leads to what is
//! asked for: tasks that nobody has claimed, by trace, label and time of
//! creation; and those that are claimed, which are few, by their claims. A read
//! that is not held to one part must visit all of them, each once.

use crate::task::Status;

/// Tasks that wait or have ended.
const UNCLAIMED: &str = "status <> 'claimed'";
/// Claims of hosts, and those of foreign workers.
const CLAIMED: [&str; 2] = [
    "status = 'claimed' AND lease_expires_at IS NOT NULL",
    "status = 'claimed' AND lease_expires_at IS NULL",
];

/// The parts that hold tasks of a status; all of them for any.
pub(super) fn holding(status: Option<Status>) -> Vec<&'static str> {
    let mut parts = Vec::with_capacity(1 + CLAIMED.len());
    if status != Some(Status::Claimed) {
        parts.push(UNCLAIMED);
    }
    if matches!(status, None | Some(Status::Claimed)) {
        parts.extend(CLAIMED);
    }
    parts
}

/// Columns of the tasks of which something holds, from all parts.
macro_rules! from_parts {
    ($columns:literal, $holds:expr) => {
        concat!(
            "(SELECT ",
            $columns,
            " FROM agent_messages WHERE status <> 'claimed' AND ",
            $holds,
            "
  UNION ALL
  SELECT ",
            $columns,
            " FROM agent_messages
  WHERE status = 'claimed' AND lease_expires_at IS NOT NULL AND ",
            $holds,
            "
  UNION ALL
  SELECT ",
            $columns,
            " FROM agent_messages
  WHERE status = 'claimed' AND lease_expires_at IS NULL AND ",
            $holds,
            ")"
        )
    };
}
pub(super) use from_parts;
