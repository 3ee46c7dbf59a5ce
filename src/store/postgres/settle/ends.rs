//! The ends of attempts as the settling statement reads them: a row each, and
//! the artifacts and forwarded tasks of all of them. Nothing here decides how a
//! task goes on; that has come with its settlement.

use std::borrow::Cow;
use std::collections::HashSet;

use serde::Serialize;
use uuid::Uuid;

use super::super::Step;
use super::super::columns::columns;
use super::super::enqueue::TaskCells;
use super::super::row::{clean, int, micros, to_json};
use crate::attempt::Blame;
use crate::ids::{Digest, MessageId};
use crate::millis::millis;
use crate::store::Settlement;
use crate::store::next_row::NextRow;

/// The ends of a batch, from the 31 parameters that [`EndColumns`] binds, which
/// are $1 to $31.
macro_rules! end_rows {
    () => {
        "(SELECT unnest($1::integer[]) AS place, unnest($2::uuid[]) AS id,
      unnest($3::bigint[]) AS epoch, unnest($4::text[]) AS status,
      unnest($5::bigint[]) AS delay, unnest($6::integer[]) AS refunded,
      unnest($7::integer[]) AS host_fault, unnest($8::text[]) AS error,
      unnest($9::boolean[]) AS keep_error, unnest($10::text[]) AS result,
      unnest($11::text[]) AS snippet, unnest($12::text[]) AS url,
      unnest($13::bigint[]) AS attempt, unnest($14::text[]) AS plugin,
      unnest($15::text[]) AS version, unnest($16::text[]) AS digest,
      unnest($17::text[]) AS kind, unnest($18::text[]) AS stage,
      unnest($19::text[]) AS why, unnest($20::bigint[]) AS wait_ms,
      unnest($21::bigint[]) AS run_ms, unnest($22::text[]) AS outcome,
      unnest($23::text[]) AS code, unnest($24::text[]) AS blame,
      unnest($25::text[]) AS usage, unnest($26::bigint[]) AS peak_memory_bytes,
      unnest($27::bigint[]) AS outbound_requests, unnest($28::text[]) AS spans,
      unnest($29::text[]) AS log, unnest($30::bigint[]) AS log_dropped,
      unnest($31::text[]) AS rollout_side
    ) AS ended"
    };
}
pub(super) use end_rows;

columns! {
    /// What an end makes of its row, and the attempt that ended.
    struct EndCells;
    /// The ends of a statement, as [`end_rows`] reads them.
    struct EndColumns {
        /// Where it stands in the batch.
        place: i32,
        id: Uuid,
        epoch: i64,
        status: &'static str,
        delay: Option<i64>,
        refunded: i32,
        host_fault: i32,
        error: Option<Cow<'a, str>>,
        keep_error: bool,
        result: Option<String>,
        snippet: Option<Cow<'a, str>>,
        url: Option<Cow<'a, str>>,
        attempt: i64,
        plugin: Option<&'a str>,
        version: Option<Cow<'a, str>>,
        digest: Option<String>,
        kind: Option<&'static str>,
        stage: &'static str,
        why: Option<String>,
        wait_ms: i64,
        run_ms: i64,
        outcome: &'static str,
        code: Option<Cow<'a, str>>,
        blame: Option<&'static str>,
        usage: String,
        peak_memory_bytes: i64,
        outbound_requests: i64,
        spans: String,
        log: String,
        log_dropped: i64,
        rollout_side: Option<String>,
    }
}

impl<'a> EndColumns<'a> {
    pub(super) fn push(&mut self, place: i32, settlement: &'a Settlement) -> Step<()> {
        let record = &settlement.attempt;
        let plugin = record.plugin.as_ref();
        let measured = &record.measured;
        let next = NextRow::of(&settlement.next);
        self.push_row(EndCells {
            place,
            id: settlement.fence.id.0,
            epoch: settlement.fence.epoch.0,
            status: next.status.as_str(),
            delay: next.delay.map(micros),
            refunded: next.refunded.into(),
            host_fault: next.host_fault.into(),
            error: next.error.map(clean),
            keep_error: next.keep_error,
            result: next.result.map(to_json).transpose()?,
            snippet: next.snippet.map(clean),
            url: next.url.map(clean),
            attempt: record.attempt.into(),
            plugin: plugin.map(|p| p.name.as_str()),
            version: plugin.map(|p| clean(&p.version)),
            digest: plugin.map(|p| p.digest.to_string()),
            kind: plugin.map(|p| p.kind.as_str()),
            stage: record.stage.as_str(),
            why: record.why.as_ref().map(to_json).transpose()?,
            wait_ms: int(record.wait_ms),
            run_ms: int(millis(measured.run)),
            outcome: record.outcome.as_str(),
            code: record.code.as_deref().map(clean),
            blame: record.blame.map(Blame::as_str),
            usage: to_json(&measured.usage)?,
            peak_memory_bytes: int(measured.peak_memory_bytes),
            outbound_requests: measured.outbound_requests.into(),
            spans: to_json(&measured.spans)?,
            log: to_json(&measured.log)?,
            log_dropped: measured.log_dropped.into(),
            rollout_side: record.side(),
        });
        Ok(())
    }
}

/// What an end leaves besides its row, its attempt and its events. Few ends
/// leave any, so that records are cheap enough.
#[derive(Serialize)]
pub(super) struct ArtifactCells<'a> {
    place: i32,
    message_id: MessageId,
    lease_epoch: i64,
    path: &'a str,
    content_type: &'a str,
    digest: Digest,
    bytes: i64,
}

/// Stored twice by one attempt, the later one counts: a statement cannot write
/// a row twice.
pub(super) fn artifacts(
    place: i32,
    settlement: &Settlement,
) -> impl Iterator<Item = ArtifactCells<'_>> {
    let mut seen = HashSet::with_capacity(settlement.artifacts.len());
    let latest = settlement.artifacts.iter().rev();
    latest
        .filter(move |artifact| seen.insert(artifact.path.as_str()))
        .map(move |artifact| ArtifactCells {
            place,
            message_id: settlement.fence.id,
            lease_epoch: settlement.fence.epoch.0,
            path: &artifact.path,
            content_type: &artifact.content_type,
            digest: artifact.digest,
            bytes: int(artifact.bytes),
        })
}

/// A task that goes on to another route, which takes over the priority.
#[derive(Serialize)]
pub(super) struct ForwardCells<'a> {
    place: i32,
    source: MessageId,
    #[serde(flatten)]
    task: TaskCells<'a>,
}

pub(super) fn forward(place: i32, settlement: &Settlement) -> Option<ForwardCells<'_>> {
    settlement.forward.as_deref().map(|task| ForwardCells {
        place,
        source: settlement.fence.id,
        task: TaskCells::of(task),
    })
}
