//! Decisions about routes as commands make them: through the host that owns the
//! bus, else straight to the database, by whose role they are recorded then.

use std::time::Duration;

use serde_json::json;

use super::connection::Connection;
use super::output::{Exit, Failure, Outcome};
use crate::api::{DecidedView, RevokedView, RouteRefused};
use crate::config::Config;
use crate::control::{ApprovalRow, Decided, Decider, Decision, MAX_TTL, Reason, Revoked};
use crate::millis::millis;
use crate::route::RouteKey;
use crate::selection::ApprovalId;
use crate::store::{BusUrl, NewApproval};

/// The bundled plugin that does not run without the address of a worker, and
/// where it finds that.
const WORKER: (&str, &str) = ("cogo-worker", "COGO_WORKER_URL");

impl Connection {
    pub async fn set_flag(
        &self,
        config: &Config,
        route: &RouteKey,
        enabled: Option<bool>,
        reason: Option<Reason>,
    ) -> Outcome<DecidedView> {
        if let Some(host) = &self.host {
            let order = json!({ "route": route, "enabled": enabled, "reason": reason });
            return host.put("/api/flags", &order).await;
        }
        if enabled.is_some() {
            self.check_route(route).await?;
        }
        if enabled == Some(true) {
            check_worker(config, route)?;
        }
        let decided = self.store.set_flag(route, enabled, &own(reason)).await?;
        Ok(DecidedView::of(route.clone(), decided))
    }

    pub async fn pause(
        &self,
        route: &RouteKey,
        paused: bool,
        reason: Option<Reason>,
    ) -> Outcome<DecidedView> {
        if let Some(host) = &self.host {
            let order = json!({ "route": route, "paused": paused, "reason": reason });
            return host.put("/api/pauses", &order).await;
        }
        let decision = own(reason);
        let decided: Decided = if paused {
            // The dispatcher is no route of a plugin's, but can wait like one.
            if *route != RouteKey::dispatcher() {
                self.check_route(route).await?;
            }
            self.store.pause(route, &decision).await?
        } else {
            self.store.resume(route, &decision).await?
        };
        Ok(DecidedView::of(route.clone(), decided))
    }

    pub async fn approve(
        &self,
        route: &RouteKey,
        reason: Reason,
        ttl: Duration,
    ) -> Outcome<ApprovalRow> {
        if let Some(host) = &self.host {
            let order = json!({ "route": route, "reason": reason, "ttl_ms": millis(ttl) });
            return host.post("/api/approvals", &order).await;
        }
        self.check_route(route).await?;
        if !(Duration::from_secs(1)..=MAX_TTL).contains(&ttl) {
            let given_ms = millis(ttl);
            return Err(refused(RouteRefused::Ttl { given_ms }));
        }
        let approval = NewApproval {
            route: route.clone(),
            reason,
            by: Decider::DatabaseRole,
            ttl,
        };
        Ok(self.store.approve(&approval).await?)
    }

    pub async fn revoke(&self, id: &ApprovalId, reason: Option<Reason>) -> Outcome<RevokedView> {
        if let Some(host) = &self.host {
            let path = format!("/api/approvals/{id}/revoke");
            return host.post(&path, &json!({ "reason": reason })).await;
        }
        let failure = |exit, code, problem| {
            Err(Failure::message(exit, code, problem)
                .hint("`cogo-host fallback list` shows the approvals in force"))
        };
        match self.store.revoke(id, &own(reason)).await? {
            Revoked::Now { trace_id } => Ok(RevokedView {
                id: id.clone(),
                trace_id,
            }),
            Revoked::Over => failure(
                Exit::Negative,
                "approval_over",
                format!("approval `{id}` is over already"),
            ),
            Revoked::Unknown => failure(
                Exit::NotFound,
                "approval_not_found",
                format!("there is no approval `{id}`"),
            ),
        }
    }

    /// A misspelt route would be decided about to no effect.
    async fn check_route(&self, asked: &RouteKey) -> Outcome<()> {
        let mut known: Vec<RouteKey> = self.served().to_vec();
        known.extend(
            self.store
                .routes()
                .await?
                .into_iter()
                .map(|route| route.key),
        );
        if known.contains(asked) {
            return Ok(());
        }
        known.sort();
        known.dedup();
        let asked = asked.clone();
        let refused = RouteRefused::Unknown { asked, known };
        let hint = refused.hint().unwrap_or_default();
        let problem = "nobody here knows the route, and no task of it waits";
        Err(Failure::message(Exit::NotFound, refused.code(), problem).hint(hint))
    }
}

/// Of rows that come newest first, the one that is meant where none is named:
/// the one under way, else the latest. `Err` with those that are under way where
/// there are several, and with none where there is no row.
pub fn meant<T: Clone>(rows: &[T], is_under_way: impl Fn(&T) -> bool) -> Result<T, Vec<&T>> {
    let under_way: Vec<&T> = rows.iter().filter(|row| is_under_way(row)).collect();
    match under_way.as_slice() {
        [] => rows.first().cloned().ok_or_else(Vec::new),
        [one] => Ok((*one).clone()),
        _ => Err(under_way),
    }
}

pub fn own(reason: Option<Reason>) -> Decision {
    Decision {
        by: Decider::DatabaseRole,
        reason,
    }
}

fn refused(refused: RouteRefused) -> Failure {
    let code = refused.code();
    let hint = refused.hint();
    Failure::new(Exit::Usage, code, refused).maybe_hint(hint)
}

/// The embedded bus is this configuration's host's alone: what that host would
/// refuse to run is refused here.
fn check_worker(config: &Config, route: &RouteKey) -> Outcome<()> {
    if !matches!(config.bus, BusUrl::Sqlite(_)) {
        return Ok(());
    }
    let (worker, url) = WORKER;
    let configured = config.routes.get(route);
    let real = configured.and_then(|configured| configured.real.as_ref());
    let is_worker = real.is_none_or(|real| real.as_str() == worker);
    let own = config
        .plugins
        .iter()
        .find(|(name, _)| name.as_str() == worker);
    let set = own.is_some_and(|(_, plugin)| plugin.config.contains_key(url));
    if !is_worker || set || config.worker_url.is_some() {
        return Ok(());
    }
    Err(refused(RouteRefused::Unrunnable {
        route: route.clone(),
        problem: format!("plugin `{worker}` is to run, but {url} is not set"),
    }))
}
