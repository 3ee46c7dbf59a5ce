//! The parts of `agent_messages` in each of which an index leads to what is
//! asked for: tasks that nobody has claimed, by trace, label and time of
//! creation; and those that are claimed, which are few, by their claims. A read
//! that is not held to one part must visit all of them, each once.

use crate::task::Status;

/// What holds in a part.
macro_rules! part {
    // Tasks that wait or have ended.
    (unclaimed) => {
        "status <> 'claimed'"
    };
    (held) => {
        "status = 'claimed' AND lease_expires_at IS NOT NULL"
    };
    // Claims of foreign workers.
    (foreign) => {
        "status = 'claimed' AND lease_expires_at IS NULL"
    };
}
pub(super) use part;

/// The parts that hold tasks of a status; all of them for any.
pub(super) fn holding(status: Option<Status>) -> Vec<&'static str> {
    let mut parts = Vec::with_capacity(3);
    if status != Some(Status::Claimed) {
        parts.push(part!(unclaimed));
    }
    if matches!(status, None | Some(Status::Claimed)) {
        parts.extend([part!(held), part!(foreign)]);
    }
    parts
}

/// Columns of the tasks of which something holds, from all parts.
macro_rules! from_parts {
    ($columns:literal, $holds:expr) => {
        concat!(
            "(",
            from_parts!(unclaimed, $columns, $holds),
            "\n  UNION ALL\n  ",
            from_parts!(held, $columns, $holds),
            "\n  UNION ALL\n  ",
            from_parts!(foreign, $columns, $holds),
            ")"
        )
    };
    ($part:ident, $columns:literal, $holds:expr) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM agent_messages WHERE ",
            $crate::store::postgres::parts::part!($part),
            " AND ",
            $holds
        )
    };
}
pub(super) use from_parts;
