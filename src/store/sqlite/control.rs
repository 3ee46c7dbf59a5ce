//! What operators decided about routes, each decision one transaction with its
//! event.

use sqlx::sqlite::SqliteConnection;

use super::connection::Writer;
use super::enqueue::insert_events;
use super::rollout::{active, rollout_json};
use super::row::Cells;
use super::shadow::shadow_json;
use super::{SqliteStore, Step, modifier};
use crate::control::{
    self, ApprovalRow, Controls, Decided, Decider, Decision, Reason, Revoked, ServingCause,
    ServingOrder,
};
use crate::event::NewEvent;
use crate::ids::Digest;
use crate::rollout::RolloutRow;
use crate::route::RouteKey;
use crate::selection::ApprovalId;
use crate::store::NewApproval;
use crate::store::control as rows;

/// The milliseconds until an instant; none once it is over.
macro_rules! ms_until {
    ($instant:literal) => {
        concat!(
            "max(0, CAST(round((julianday(",
            $instant,
            ") - julianday('now')) * 86400000.0) AS INTEGER))"
        )
    };
}

/// One statement, and so one state of the bus.
const SELECT: &str = concat!(
    "
SELECT json_object(
  'flags', (
    SELECT json_group_array(json_object('route', route,
      'enabled', json(iif(enabled, 'true', 'false')), 'actor', actor, 'reason', reason,
      'changed_at', changed_at))
    FROM executor_flags
  ),
  'pauses', (
    SELECT json_group_array(json_object('route', route, 'actor', actor, 'reason', reason,
      'paused_at', paused_at))
    FROM executor_pauses
  ),
  'approvals', (
    SELECT json_group_array(json_object('id', id, 'route', route, 'reason', reason,
      'approver', approver, 'created_at', created_at, 'expires_at', expires_at,
      'left_ms', left_ms))
    FROM (
      SELECT *, ",
    ms_until!("expires_at"),
    " AS left_ms
      FROM executor_approvals
      WHERE revoked_at IS NULL AND expires_at > strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
      ORDER BY expires_at DESC, id
      LIMIT 1000
    )
  ),
  'breakers', (
    SELECT json_group_array(json_patch(json_object('plugin', plugin, 'route', route,
      'revision', revision, 'state', state, 'failed_probes', failed_probes,
      'holder', probe_holder, 'probe_in_ms', ",
    ms_until!("probe_at"),
    ", 'left_ms', ",
    ms_until!("probe_until"),
    "), coalesce(cause, '{}')))
    FROM (SELECT * FROM executor_breakers ORDER BY plugin, route)
  ),
  'serving', (
    SELECT json_group_array(json_object('plugin', plugin, 'digest', digest, 'cause', cause,
      'actor', actor, 'reason', reason, 'trace_id', trace_id, 'changed_at', changed_at))
    FROM executor_serving
  ),
  'published', (
    SELECT json_group_array(json_object('digest', digest, 'name', name, 'version', version,
      'bytes', bytes, 'actor', actor, 'reason', reason,
      'published_at', published_at))
    FROM (
      SELECT digest, name, version, bytes, actor, reason, published_at
      FROM executor_published
      WHERE retracted_at IS NULL
      ORDER BY published_at DESC, digest
      LIMIT 200
    )
  ),
  'rollouts', (
    SELECT json_group_array(",
    rollout_json!(),
    ")
    FROM executor_rollouts
    WHERE ",
    active!(),
    "
  ),
  'shadows', (
    SELECT json_group_array(",
    shadow_json!(),
    ")
    FROM executor_shadows
    WHERE ended_at IS NULL
  )
) AS controls"
);

const READ_FLAG: &str = "SELECT enabled FROM executor_flags WHERE route = ?1";

const SET_FLAG: &str = "
INSERT INTO executor_flags (route, enabled, actor, reason)
VALUES (?1, ?2, ?3, ?4)
ON CONFLICT (route) DO UPDATE
SET enabled = excluded.enabled, actor = excluded.actor, reason = excluded.reason,
    changed_at = excluded.changed_at";

const UNSET_FLAG: &str = "DELETE FROM executor_flags WHERE route = ?1";

const READ_SERVING: &str = "SELECT digest FROM executor_serving WHERE plugin = ?1";

const SET_SERVING: &str = "
INSERT INTO executor_serving (plugin, digest, cause, actor, reason, trace_id)
VALUES (?1, ?2, ?3, ?4, ?5, ?6)
ON CONFLICT (plugin) DO UPDATE
SET digest = excluded.digest, cause = excluded.cause, actor = excluded.actor,
    reason = excluded.reason, trace_id = excluded.trace_id, changed_at = excluded.changed_at";

const UNSET_SERVING: &str = "DELETE FROM executor_serving WHERE plugin = ?1";

const PAUSE: &str = "
INSERT INTO executor_pauses (route, actor, reason)
VALUES (?1, ?2, ?3)
ON CONFLICT (route) DO NOTHING";

const RESUME: &str = "DELETE FROM executor_pauses WHERE route = ?1";

macro_rules! approval_columns {
    () => {
        concat!(
            "id, route, reason, approver, created_at, expires_at, revoked_at, revoked_by,
  iif(revoked_at IS NULL, ",
            ms_until!("expires_at"),
            ", 0) AS left_ms"
        )
    };
}

const APPROVE: &str = concat!(
    "
INSERT INTO executor_approvals (id, route, reason, approver, expires_at)
VALUES (?1, ?2, ?3, ?4, strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?5))
RETURNING ",
    approval_columns!()
);

const REVOKE: &str = "
UPDATE executor_approvals
SET revoked_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), revoked_by = ?2
WHERE id = ?1 AND revoked_at IS NULL
  AND expires_at > strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
RETURNING route";

const APPROVAL_EXISTS: &str = "SELECT id FROM executor_approvals WHERE id = ?1";

const SELECT_APPROVALS: &str = concat!(
    "
SELECT ",
    approval_columns!(),
    "
FROM executor_approvals
ORDER BY created_at DESC, id
LIMIT ?1"
);

pub(super) async fn controls(store: &SqliteStore) -> Step<Controls> {
    let mut conn = store.readers.acquire().await?;
    let row = sqlx::query(SELECT).fetch_one(&mut *conn).await?;
    rows::controls(&Cells::of("executor_flags", &row))
}

/// A transaction of somebody who decides, and their name.
pub(super) struct Deciding<'a> {
    writer: Writer<'a>,
    pub(super) actor: String,
}

impl<'a> Deciding<'a> {
    pub(super) async fn begin(store: &'a SqliteStore, by: &Decider) -> Step<Self> {
        let mut writer = store.writers.acquire().await?;
        writer.begin().await?;
        let actor = match by {
            Decider::Named(name) => name.clone(),
            // A file knows no roles: whoever may write it.
            Decider::DatabaseRole => "local".to_owned(),
        };
        Ok(Self { writer, actor })
    }

    pub(super) fn conn(&mut self) -> Step<&mut SqliteConnection> {
        self.writer.conn()
    }

    pub(super) async fn decide(mut self, event: NewEvent) -> Step<Decided> {
        insert_events(self.writer.conn()?, std::slice::from_ref(&event)).await?;
        self.writer.commit().await?;
        Ok(Decided::Changed {
            trace_id: event.trace_id,
        })
    }

    pub(super) async fn already(self) -> Step<Decided> {
        self.writer.rollback().await?;
        Ok(Decided::Already)
    }
}

pub(super) async fn set_flag(
    store: &SqliteStore,
    route: &RouteKey,
    to: Option<bool>,
    decision: &Decision,
) -> Step<Decided> {
    let mut deciding = Deciding::begin(store, &decision.by).await?;
    let name = route.to_string();
    let before = sqlx::query(READ_FLAG)
        .bind(&name)
        .fetch_optional(deciding.conn()?)
        .await?;
    let from = match &before {
        Some(row) => Some(Cells::of("executor_flags", row).flag("enabled")?),
        None => None,
    };
    if from == to {
        return deciding.already().await;
    }
    let actor = deciding.actor.clone();
    let query = match to {
        Some(enabled) => sqlx::query(SET_FLAG)
            .bind(&name)
            .bind(enabled)
            .bind(&actor)
            .bind(text(decision.reason.as_ref())),
        None => sqlx::query(UNSET_FLAG).bind(&name),
    };
    query.execute(deciding.conn()?).await?;
    let event = control::flag_changed(route, (from, to), &actor, decision.reason.as_ref());
    deciding.decide(event).await
}

pub(super) async fn set_serving(
    store: &SqliteStore,
    order: &ServingOrder,
    decision: &Decision,
) -> Step<Decided> {
    let mut deciding = Deciding::begin(store, &decision.by).await?;
    let before = sqlx::query(READ_SERVING)
        .bind(order.plugin.as_str())
        .fetch_optional(deciding.conn()?)
        .await?;
    let from: Option<Digest> = match &before {
        // Whatever somebody wrote by hand is replaced.
        Some(row) => Cells::of("executor_serving", row)
            .required_text("digest")?
            .parse()
            .ok(),
        None => None,
    };
    if from == order.to.map(|(digest, _)| digest) {
        return deciding.already().await;
    }
    let reason = decision.reason.as_ref();
    let event = control::serving_changed(order, from, &deciding.actor, reason);
    let actor = deciding.actor.clone();
    let query = match &order.to {
        Some((digest, cause)) => sqlx::query(SET_SERVING)
            .bind(order.plugin.as_str())
            .bind(digest.to_string())
            .bind(cause.as_str())
            .bind(&actor)
            .bind(text(reason))
            .bind(event.trace_id.as_str()),
        None => sqlx::query(UNSET_SERVING).bind(order.plugin.as_str()),
    };
    query.execute(deciding.conn()?).await?;
    deciding.decide(event).await
}

pub(super) async fn pause(
    store: &SqliteStore,
    route: &RouteKey,
    decision: &Decision,
) -> Step<Decided> {
    let mut deciding = Deciding::begin(store, &decision.by).await?;
    let actor = deciding.actor.clone();
    let paused = sqlx::query(PAUSE)
        .bind(route.to_string())
        .bind(&actor)
        .bind(text(decision.reason.as_ref()))
        .execute(deciding.conn()?)
        .await?;
    if paused.rows_affected() == 0 {
        return deciding.already().await;
    }
    let event = control::paused(route, &actor, decision.reason.as_ref());
    deciding.decide(event).await
}

pub(super) async fn resume(
    store: &SqliteStore,
    route: &RouteKey,
    decision: &Decision,
) -> Step<Decided> {
    let mut deciding = Deciding::begin(store, &decision.by).await?;
    let resumed = sqlx::query(RESUME)
        .bind(route.to_string())
        .execute(deciding.conn()?)
        .await?;
    if resumed.rows_affected() == 0 {
        return deciding.already().await;
    }
    let event = control::resumed(route, &deciding.actor, decision.reason.as_ref());
    deciding.decide(event).await
}

/// Says within the caller's transaction that the candidate of a rollout serves;
/// the event of that.
pub(super) async fn promote(deciding: &mut Deciding<'_>, row: &RolloutRow) -> Step<NewEvent> {
    let event = control::promoted(row, &deciding.actor);
    let actor = deciding.actor.clone();
    sqlx::query(SET_SERVING)
        .bind(row.plugin.as_str())
        .bind(row.candidate.to_string())
        .bind(ServingCause::Promotion.as_str())
        .bind(&actor)
        .bind(event.reason.as_deref())
        .bind(event.trace_id.as_str())
        .execute(deciding.conn()?)
        .await?;
    Ok(event)
}

pub(super) async fn approve(store: &SqliteStore, approval: &NewApproval) -> Step<ApprovalRow> {
    let mut deciding = Deciding::begin(store, &approval.by).await?;
    let actor = deciding.actor.clone();
    let row = sqlx::query(APPROVE)
        .bind(ApprovalId::generate().0)
        .bind(approval.route.to_string())
        .bind(approval.reason.as_str())
        .bind(&actor)
        .bind(modifier(approval.ttl))
        .fetch_one(deciding.conn()?)
        .await?;
    let row = rows::approval(&Cells::of("executor_approvals", &row))?;
    deciding.decide(control::approved(&row)).await?;
    Ok(row)
}

pub(super) async fn revoke(
    store: &SqliteStore,
    id: &ApprovalId,
    decision: &Decision,
) -> Step<Revoked> {
    let mut deciding = Deciding::begin(store, &decision.by).await?;
    let actor = deciding.actor.clone();
    let row = sqlx::query(REVOKE)
        .bind(&id.0)
        .bind(&actor)
        .fetch_optional(deciding.conn()?)
        .await?;
    let Some(row) = row else {
        let exists = sqlx::query(APPROVAL_EXISTS)
            .bind(&id.0)
            .fetch_optional(deciding.conn()?)
            .await?;
        deciding.already().await?;
        return Ok(match exists {
            Some(_) => Revoked::Over,
            None => Revoked::Unknown,
        });
    };
    let route: RouteKey = Cells::of("executor_approvals", &row).parsed("route")?;
    let event = control::revoked(id, &route, &actor, decision.reason.as_ref());
    let trace_id = event.trace_id.clone();
    deciding.decide(event).await?;
    Ok(Revoked::Now { trace_id })
}

pub(super) async fn approvals(store: &SqliteStore, limit: u32) -> Step<Vec<ApprovalRow>> {
    let mut conn = store.readers.acquire().await?;
    let rows = sqlx::query(SELECT_APPROVALS)
        .bind(i64::from(limit))
        .fetch_all(&mut *conn)
        .await?;
    rows.iter()
        .map(|row| rows::approval(&Cells::of("executor_approvals", row)))
        .collect()
}

pub(super) fn text(reason: Option<&Reason>) -> Option<&str> {
    reason.map(Reason::as_str)
}
