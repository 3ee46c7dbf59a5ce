//! What operators decided about routes, each decision one transaction with its
//! event. Who decides locks the table for others who decide, not for readers:
//! decisions are rare, and their events must tell them in order.

use super::connection::Turn;
use super::enqueue::insert_events;
use super::rollout::{active, rollout_json};
use super::row::{clean, micros, ms_since};
use super::shadow::shadow_json;
use super::{PgCells, PostgresStore, Step};
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

/// One statement, and so one state of the bus.
const SELECT: &str = concat!(
    "
SELECT json_build_object(
  'flags', (
    SELECT coalesce(json_agg(flag), '[]')
    FROM (SELECT route, enabled, actor, reason, changed_at FROM executor_flags) AS flag
  ),
  'pauses', (
    SELECT coalesce(json_agg(pause), '[]')
    FROM (SELECT route, actor, reason, paused_at FROM executor_pauses) AS pause
  ),
  'approvals', (
    SELECT coalesce(json_agg(approval), '[]')
    FROM (
      SELECT id, route, reason, approver, created_at, expires_at, revoked_at, revoked_by,
        -",
    ms_since!("expires_at"),
    " AS left_ms
      FROM executor_approvals
      WHERE revoked_at IS NULL AND expires_at > now()
      ORDER BY expires_at DESC, id
      LIMIT 1000
    ) AS approval
  ),
  'breakers', (
    SELECT coalesce(
      jsonb_agg(jsonb_build_object(
        'plugin', plugin, 'route', route, 'revision', revision, 'state', state,
        'failed_probes', failed_probes, 'holder', probe_holder,
        'probe_in_ms', greatest(0, -",
    ms_since!("probe_at"),
    "),
        'left_ms', greatest(0, -",
    ms_since!("probe_until"),
    ")
      ) || coalesce(cause, '{}') ORDER BY plugin, route), '[]')
    FROM executor_breakers
  ),
  'serving', (
    SELECT coalesce(json_agg(serving), '[]')
    FROM (
      SELECT plugin, digest, cause, actor, reason, trace_id, changed_at FROM executor_serving
    ) AS serving
  ),
  'published', (
    SELECT coalesce(json_agg(published), '[]')
    FROM (
      SELECT digest, name, version, bytes, actor, reason, published_at
      FROM executor_published
      WHERE retracted_at IS NULL
      ORDER BY published_at DESC, digest
      LIMIT 200
    ) AS published
  ),
  'rollouts', (
    SELECT coalesce(json_agg(",
    rollout_json!(),
    "), '[]')
    FROM executor_rollouts
    WHERE ",
    active!(),
    "
  ),
  'shadows', (
    SELECT coalesce(json_agg(",
    shadow_json!(),
    "), '[]')
    FROM executor_shadows
    WHERE ended_at IS NULL
  )
)::text AS controls"
);

const READ_FLAG: &str = "SELECT enabled FROM executor_flags WHERE route = $1";

const SET_FLAG: &str = "
INSERT INTO executor_flags (route, enabled, actor, reason, changed_at)
VALUES ($1, $2, $3, $4, now())
ON CONFLICT (route) DO UPDATE
SET enabled = excluded.enabled, actor = excluded.actor, reason = excluded.reason,
    changed_at = excluded.changed_at";

const UNSET_FLAG: &str = "DELETE FROM executor_flags WHERE route = $1";

const READ_SERVING: &str = "SELECT digest FROM executor_serving WHERE plugin = $1";

const SET_SERVING: &str = "
INSERT INTO executor_serving (plugin, digest, cause, actor, reason, trace_id, changed_at)
VALUES ($1, $2, $3, $4, $5, $6, now())
ON CONFLICT (plugin) DO UPDATE
SET digest = excluded.digest, cause = excluded.cause, actor = excluded.actor,
    reason = excluded.reason, trace_id = excluded.trace_id, changed_at = excluded.changed_at";

const UNSET_SERVING: &str = "DELETE FROM executor_serving WHERE plugin = $1";

const PAUSE: &str = "
INSERT INTO executor_pauses (route, actor, reason)
VALUES ($1, $2, $3)
ON CONFLICT (route) DO NOTHING";

const RESUME: &str = "DELETE FROM executor_pauses WHERE route = $1";

macro_rules! approval_columns {
    () => {
        concat!(
            "id, route, reason, approver, created_at, expires_at, revoked_at, revoked_by,
  CASE WHEN revoked_at IS NULL THEN greatest(0, -",
            ms_since!("expires_at"),
            ") ELSE 0 END AS left_ms"
        )
    };
}

const APPROVE: &str = concat!(
    "
INSERT INTO executor_approvals (id, route, reason, approver, created_at, expires_at)
VALUES ($1, $2, $3, $4, now(), now() + $5 * interval '1 microsecond')
RETURNING ",
    approval_columns!()
);

const REVOKE: &str = "
UPDATE executor_approvals
SET revoked_at = now(), revoked_by = $2
WHERE id = $1 AND revoked_at IS NULL AND expires_at > now()
RETURNING route";

const APPROVAL_EXISTS: &str = "SELECT id FROM executor_approvals WHERE id = $1";

const SELECT_APPROVALS: &str = concat!(
    "
SELECT ",
    approval_columns!(),
    "
FROM executor_approvals
ORDER BY created_at DESC, id
LIMIT $1"
);

pub(super) async fn controls(store: &PostgresStore) -> Step<Controls> {
    let mut turn = store.connections.turn().await?;
    let query = turn.query(SELECT);
    let row = query.fetch_one(turn.conn()).await?;
    turn.finish().await?;
    rows::controls(&PgCells::of("executor_flags", &row))
}

/// A transaction of somebody who decides, and their name.
pub(super) struct Deciding {
    pub(super) turn: Turn,
    pub(super) actor: String,
}

impl Deciding {
    pub(super) async fn begin(
        store: &PostgresStore,
        lock: &'static str,
        by: &Decider,
    ) -> Step<Self> {
        let mut turn = store.connections.transaction().await?;
        sqlx::raw_sql(lock).execute(turn.conn()).await?;
        let actor = match by {
            Decider::Named(name) => clean(name).into_owned(),
            Decider::DatabaseRole => {
                let query = turn.query("SELECT current_user::text AS role");
                let row = query.fetch_one(turn.conn()).await?;
                PgCells::of("pg_roles", &row).required_text("role")?
            }
        };
        Ok(Self { turn, actor })
    }

    pub(super) async fn decide(mut self, event: NewEvent) -> Step<Decided> {
        insert_events(&mut self.turn, [&event]).await?;
        self.turn.finish().await?;
        Ok(Decided::Changed {
            trace_id: event.trace_id,
        })
    }

    pub(super) async fn already(self) -> Step<Decided> {
        self.turn.finish().await?;
        Ok(Decided::Already)
    }
}

/// Readers go on; who else decides waits.
macro_rules! lock {
    ($table:literal) => {
        concat!("LOCK TABLE ", $table, " IN SHARE ROW EXCLUSIVE MODE")
    };
}
pub(super) use lock;

pub(super) async fn set_flag(
    store: &PostgresStore,
    route: &RouteKey,
    to: Option<bool>,
    decision: &Decision,
) -> Step<Decided> {
    let mut deciding = Deciding::begin(store, lock!("executor_flags"), &decision.by).await?;
    let (turn, name) = (&mut deciding.turn, route.to_string());
    let query = turn.query(READ_FLAG).bind(&name);
    let before = query.fetch_optional(turn.conn()).await?;
    let from = match &before {
        Some(row) => Some(PgCells::of("executor_flags", row).flag("enabled")?),
        None => None,
    };
    if from == to {
        return deciding.already().await;
    }
    let query = match to {
        Some(enabled) => turn
            .query(SET_FLAG)
            .bind(&name)
            .bind(enabled)
            .bind(&deciding.actor)
            .bind(text(decision.reason.as_ref())),
        None => turn.query(UNSET_FLAG).bind(&name),
    };
    query.execute(turn.conn()).await?;
    let reason = decision.reason.as_ref();
    let event = control::flag_changed(route, (from, to), &deciding.actor, reason);
    deciding.decide(event).await
}

pub(super) async fn set_serving(
    store: &PostgresStore,
    order: &ServingOrder,
    decision: &Decision,
) -> Step<Decided> {
    let mut deciding = Deciding::begin(store, lock!("executor_serving"), &decision.by).await?;
    let turn = &mut deciding.turn;
    let query = turn.query(READ_SERVING).bind(order.plugin.as_str());
    let before = query.fetch_optional(turn.conn()).await?;
    let from: Option<Digest> = match &before {
        // Whatever somebody wrote by hand is replaced.
        Some(row) => PgCells::of("executor_serving", row)
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
    let query = match &order.to {
        Some((digest, cause)) => turn
            .query(SET_SERVING)
            .bind(order.plugin.as_str())
            .bind(digest.to_string())
            .bind(cause.as_str())
            .bind(&deciding.actor)
            .bind(text(reason))
            .bind(event.trace_id.as_str()),
        None => turn.query(UNSET_SERVING).bind(order.plugin.as_str()),
    };
    query.execute(turn.conn()).await?;
    deciding.decide(event).await
}

pub(super) async fn pause(
    store: &PostgresStore,
    route: &RouteKey,
    decision: &Decision,
) -> Step<Decided> {
    let mut deciding = Deciding::begin(store, lock!("executor_pauses"), &decision.by).await?;
    let turn = &mut deciding.turn;
    let query = turn
        .query(PAUSE)
        .bind(route.to_string())
        .bind(&deciding.actor)
        .bind(text(decision.reason.as_ref()));
    if query.execute(turn.conn()).await?.rows_affected() == 0 {
        return deciding.already().await;
    }
    let event = control::paused(route, &deciding.actor, decision.reason.as_ref());
    deciding.decide(event).await
}

pub(super) async fn resume(
    store: &PostgresStore,
    route: &RouteKey,
    decision: &Decision,
) -> Step<Decided> {
    let mut deciding = Deciding::begin(store, lock!("executor_pauses"), &decision.by).await?;
    let turn = &mut deciding.turn;
    let query = turn.query(RESUME).bind(route.to_string());
    if query.execute(turn.conn()).await?.rows_affected() == 0 {
        return deciding.already().await;
    }
    let event = control::resumed(route, &deciding.actor, decision.reason.as_ref());
    deciding.decide(event).await
}

/// Says within the caller's transaction that the candidate of a rollout serves;
/// the event of that.
pub(super) async fn promote(deciding: &mut Deciding, row: &RolloutRow) -> Step<NewEvent> {
    let event = control::promoted(row, &deciding.actor);
    let turn = &mut deciding.turn;
    let query = turn
        .query(SET_SERVING)
        .bind(row.plugin.as_str())
        .bind(row.candidate.to_string())
        .bind(ServingCause::Promotion.as_str())
        .bind(&deciding.actor)
        .bind(event.reason.as_deref())
        .bind(event.trace_id.as_str());
    query.execute(turn.conn()).await?;
    Ok(event)
}

pub(super) async fn approve(store: &PostgresStore, approval: &NewApproval) -> Step<ApprovalRow> {
    let lock = lock!("executor_approvals");
    let mut deciding = Deciding::begin(store, lock, &approval.by).await?;
    let turn = &mut deciding.turn;
    let query = turn
        .query(APPROVE)
        .bind(ApprovalId::generate().0)
        .bind(approval.route.to_string())
        .bind(approval.reason.as_str())
        .bind(&deciding.actor)
        .bind(micros(approval.ttl));
    let row = query.fetch_one(turn.conn()).await?;
    let row = rows::approval(&PgCells::of("executor_approvals", &row))?;
    deciding.decide(control::approved(&row)).await?;
    Ok(row)
}

pub(super) async fn revoke(
    store: &PostgresStore,
    id: &ApprovalId,
    decision: &Decision,
) -> Step<Revoked> {
    let lock = lock!("executor_approvals");
    let mut deciding = Deciding::begin(store, lock, &decision.by).await?;
    let (turn, name) = (&mut deciding.turn, clean(&id.0));
    let query = turn.query(REVOKE).bind(&*name).bind(&deciding.actor);
    let Some(row) = query.fetch_optional(turn.conn()).await? else {
        let query = turn.query(APPROVAL_EXISTS).bind(&*name);
        let exists = query.fetch_optional(turn.conn()).await?.is_some();
        deciding.turn.finish().await?;
        return Ok(match exists {
            true => Revoked::Over,
            false => Revoked::Unknown,
        });
    };
    let route: RouteKey = PgCells::of("executor_approvals", &row).parsed("route")?;
    let event = control::revoked(id, &route, &deciding.actor, decision.reason.as_ref());
    let trace_id = event.trace_id.clone();
    deciding.decide(event).await?;
    Ok(Revoked::Now { trace_id })
}

pub(super) async fn approvals(store: &PostgresStore, limit: u32) -> Step<Vec<ApprovalRow>> {
    let mut turn = store.connections.turn().await?;
    let query = turn.query(SELECT_APPROVALS).bind(i64::from(limit));
    let rows = query.fetch_all(turn.conn()).await?;
    turn.finish().await?;
    rows.iter()
        .map(|row| rows::approval(&PgCells::of("executor_approvals", row)))
        .collect()
}

pub(super) fn text(reason: Option<&Reason>) -> Option<&str> {
    reason.map(Reason::as_str)
}
