//! Rows as the rest of the host reads them, whatever database they come from:
//! every store selects the same columns by the same names.

use std::collections::HashMap;

use super::cells::{Cells, Columns, Step};
use super::{ArtifactRow, AttemptRow, Depth, HostRow, Latency, Renewal, Waiting, audit};
use crate::attempt::{Fence, Kind, LeaseEpoch};
use crate::event::Event;
use crate::gate::{Ended, How};
use crate::ids::{Digest, TraceId};
use crate::route::{Route, RouteKey};
use crate::selection::FixedSide;
use crate::task::{Status, TaskRow};

pub(super) fn task<R: Columns>(cells: &Cells<'_, R>) -> Step<TaskRow> {
    Ok(TaskRow {
        id: cells.id("id")?,
        created_at: cells.required_instant("created_at")?,
        // A row without a route is shown as it is: nobody serves it.
        service: cells.text("service")?.unwrap_or_default(),
        role: cells.text("role")?.unwrap_or_default(),
        shard: cells.int32("shard")?,
        tenant: cells.text("tenant")?,
        task_id: cells.text("task_id")?,
        trace_id: cells.text("trace_id")?,
        status: cells.parsed::<Status>("status")?,
        priority: cells.int32("priority")?,
        attempts: cells.count32("attempts")?,
        max_attempts: cells.count32_opt("max_attempts")?,
        host_faults: cells.count32("host_faults")?,
        unique_key: cells.text("unique_key")?,
        claimed_by: cells.text("claimed_by")?,
        claimed_at: cells.instant("claimed_at")?,
        lease_epoch: cells.int("lease_epoch")?.unwrap_or(0),
        lease_expires_at: cells.instant("lease_expires_at")?,
        cancel_requested_at: cells.instant("cancel_requested_at")?,
        done_at: cells.instant("done_at")?,
        retry_at: cells.instant("retry_at")?,
        last_error_at: cells.instant("last_error_at")?,
        error: cells.text("error")?,
        result_snippet: cells.text("result_snippet")?,
        result_url: cells.text("result_url")?,
        result: cells.json("result")?,
        payload: cells.json("payload")?,
    })
}

pub(super) fn attempt<R: Columns>(cells: &Cells<'_, R>) -> Step<AttemptRow> {
    Ok(AttemptRow {
        message_id: cells.id("message_id")?,
        lease_epoch: cells.int("lease_epoch")?.unwrap_or(0),
        attempt: cells.count32("attempt")?,
        host: cells.required_text("host")?,
        plugin: cells.text("plugin")?,
        version: cells.text("version")?,
        digest: cells.parsed_opt("digest")?,
        kind: cells.text("kind")?,
        stage: cells.text("stage")?,
        why: cells.json("why")?,
        claimed_at: cells.instant("claimed_at")?,
        ended_at: cells.required_instant("ended_at")?,
        wait_ms: cells.count("wait_ms")?,
        run_ms: cells.count("run_ms")?,
        outcome: cells.required_text("outcome")?,
        code: cells.text("code")?,
        blame: cells.text("blame")?,
        usage: cells.json("usage")?.unwrap_or_default(),
        peak_memory_bytes: cells.count("peak_memory_bytes")?,
        outbound_requests: cells.count32("outbound_requests")?,
        spans: cells.json("spans")?.unwrap_or_default(),
        log: cells.json("log")?.unwrap_or_default(),
        log_dropped: cells.count32("log_dropped")?,
    })
}

/// Other programs write events, too; theirs may name what they like.
pub(super) fn event<R: Columns>(cells: &Cells<'_, R>) -> Step<Event> {
    let shard = cells.int("shard")?;
    Ok(Event {
        id: cells.int("id")?.unwrap_or(0),
        created_at: cells.required_instant("created_at")?,
        event_type: cells.required_text("event_type")?,
        message_id: cells.text("message_id")?.and_then(|text| text.parse().ok()),
        service: cells.text("service")?,
        role: cells.text("role")?,
        shard: shard.and_then(|shard| i32::try_from(shard).ok()),
        tenant: cells.text("tenant")?,
        trace_id: cells.text("trace_id")?,
        reason: cells.text("reason")?,
        payload: cells.json("payload")?.unwrap_or_default(),
    })
}

pub(super) fn artifact<R: Columns>(cells: &Cells<'_, R>) -> Step<ArtifactRow> {
    Ok(ArtifactRow {
        message_id: cells.id("message_id")?,
        task_id: cells.required_text("task_id")?,
        trace_id: cells.parsed::<TraceId>("trace_id")?,
        path: cells.required_text("path")?,
        content_type: cells.required_text("content_type")?,
        digest: cells.parsed("digest")?,
        bytes: cells.count("bytes")?,
        created_at: cells.required_instant("created_at")?,
    })
}

pub(super) fn host<R: Columns>(cells: &Cells<'_, R>) -> Step<HostRow> {
    Ok(HostRow {
        holder: cells.required_text("holder")?,
        name: cells.required_text("name")?,
        stage: cells.required_text("stage")?,
        version: cells.required_text("version")?,
        api: cells.text("api")?,
        started_at: cells.required_instant("started_at")?,
        seen_at: cells.required_instant("seen_at")?,
        silent_ms: cells.count("silent_ms")?,
        digests: digests(cells)?,
    })
}

/// Another build of the host may write what this one cannot read.
fn digests<R: Columns>(cells: &Cells<'_, R>) -> Step<Vec<Digest>> {
    let texts: Vec<String> = cells.json_or_default("digests")?;
    Ok(texts.iter().filter_map(|text| text.parse().ok()).collect())
}

pub(super) fn depth<R: Columns>(cells: &Cells<'_, R>) -> Step<Depth> {
    let oldest = cells.int("oldest_due_ms")?;
    Ok(Depth {
        queued: cells.count("queued")?,
        claimed: cells.count("claimed")?,
        done: cells.count("done")?,
        failed: cells.count("failed")?,
        oldest_due_ms: oldest.map(|ms| u64::try_from(ms).unwrap_or(0)),
    })
}

/// None where somebody else's names are none of ours, or are left out.
fn route_key<R: Columns>(cells: &Cells<'_, R>) -> Step<Option<RouteKey>> {
    let (service, role) = (cells.text("service")?, cells.text("role")?);
    let names = service.zip(role);
    Ok(names.and_then(|(service, role)| RouteKey::new(&service, &role).ok()))
}

/// None where the route is none.
pub(super) fn waiting<R: Columns>(cells: &Cells<'_, R>) -> Step<Option<Waiting>> {
    let Some(route) = route_key(cells)? else {
        return Ok(None);
    };
    let oldest = cells.int("oldest_due_ms")?;
    Ok(Some(Waiting {
        route,
        queued: cells.count("queued")?,
        oldest_due_ms: oldest.map(|ms| u64::try_from(ms).unwrap_or(0)),
    }))
}

pub(super) fn latency<R: Columns>(cells: &Cells<'_, R>) -> Step<Latency> {
    let ms = |value: Option<i64>| value.map(|ms| u64::try_from(ms).unwrap_or(0));
    Ok(Latency {
        p50_ms: ms(cells.int("p50_ms")?),
        p90_ms: ms(cells.int("p90_ms")?),
        n: cells.count("n")?,
    })
}

/// The claim of a row.
pub(super) fn fence<R: Columns>(cells: &Cells<'_, R>) -> Step<Fence> {
    Ok(Fence {
        id: cells.id("id")?,
        epoch: LeaseEpoch(cells.int("lease_epoch")?.unwrap_or(0)),
    })
}

/// What became of the leases that were to be renewed, in the order of `fences`;
/// one without a row is lost.
pub(super) fn renewals<R: Columns>(rows: &[R], fences: &[Fence]) -> Step<Vec<Renewal>> {
    let mut held = HashMap::with_capacity(rows.len());
    for row in rows {
        let cells = Cells::of("agent_messages", row);
        let renewal = match cells.flag("cancel_requested")? {
            true => Renewal::CancelRequested,
            false => Renewal::Held,
        };
        held.insert(fence(&cells)?, renewal);
    }
    let answers = fences
        .iter()
        .map(|fence| held.get(fence).copied().unwrap_or(Renewal::Lost));
    Ok(answers.collect())
}

/// The route of a row; none where somebody else's names are none of ours.
pub(super) fn route_opt<R: Columns>(cells: &Cells<'_, R>) -> Step<Option<Route>> {
    let Some(key) = route_key(cells)? else {
        return Ok(None);
    };
    Ok(Some(Route {
        key,
        shard: cells.int32("shard")?,
        tenant: cells.text("tenant")?,
    }))
}

pub(super) fn route<R: Columns>(cells: &Cells<'_, R>) -> Step<Route> {
    let route = route_opt(cells)?;
    Ok(route.ok_or_else(|| cells.wrong("`service` and `role` are no route"))?)
}

pub(super) fn side<R: Columns>(cells: &Cells<'_, R>) -> Step<Option<FixedSide>> {
    let text = cells.text("rollout_side")?;
    Ok(text.as_deref().and_then(FixedSide::parse))
}

/// A group of tasks that ended alike; none where the route is no route of ours.
pub(super) fn ended<R: Columns>(cells: &Cells<'_, R>) -> Step<Option<Ended>> {
    let Some(route) = route_key(cells)? else {
        return Ok(None);
    };
    let how = match (
        cells.required_text("status")?.as_str(),
        cells.flag("cancelled")?,
    ) {
        ("done", _) => How::Done,
        (_, true) => How::Cancelled,
        (_, false) => How::Failed,
    };
    let report = cells.text("report")?;
    let held = cells.flag("held")? && how == How::Done && audit::fits(&route, report.as_deref());
    Ok(Some(Ended {
        route,
        how,
        kind: match cells.text("kind")?.as_deref() {
            Some("real") => Some(Kind::Real),
            Some("mock") => Some(Kind::Mock),
            _ => None,
        },
        fallback: cells.flag("fallback")?,
        held,
        passed: cells.int("passed")?.map(|passed| passed != 0),
        tasks: cells.count("tasks")?,
    }))
}
