//! A host that is only hands: it claims and settles as a test tells it to.

use std::time::Duration;

use cogo_host::attempt::{
    AttemptOutcome, AttemptRecord, Blame, Kind, Measured, PluginVersion, Problem, StagedArtifact,
    Usage,
};
use cogo_host::event::Subject;
use cogo_host::ids::{Digest, HolderId, MessageId, TraceId};
use cogo_host::route::{Route, RouteKey};
use cogo_host::selection::{Basis, Path, Why};
use cogo_host::stage::Stage;
use cogo_host::store::{ClaimRequest, Settled, Settlement, Store, Want};
use cogo_host::task::{CANCELLED, Claim, NewTask, Next, Refund};
use serde_json::json;

pub const BUILD_TEST: &str = "code/build-test";
pub const DOCS: &str = "docs/render";

/// A lease that no test outlives.
pub const LEASE: Duration = Duration::from_secs(60);

pub fn key(route: &str) -> RouteKey {
    route.parse().unwrap()
}

pub fn task(route: &str) -> NewTask {
    NewTask {
        id: MessageId::generate(),
        route: Route::of(key(route)),
        task_id: Some("label".to_owned()),
        trace_id: TraceId::generate(),
        payload: json!({ "repo": "r", "text": "'é\"\\ \n" }),
        priority: 0,
        max_attempts: None,
        unique_key: None,
        delay: Duration::ZERO,
        repeats: None,
    }
}

pub fn tasks(route: &str, n: usize) -> Vec<NewTask> {
    (0..n).map(|_| task(route)).collect()
}

pub fn want(route: &str) -> Want {
    Want {
        key: key(route),
        shard: None,
        tenant: None,
        limit: 1000,
        reclaim_foreign_after: None,
        draw: None,
    }
}

pub fn problem(code: &str) -> Problem {
    Problem::new(code, "it broke", Blame::Worker)
}

pub fn done() -> Next {
    Next::Done {
        result: json!({ "type": "build-test", "passed": true, "tests": 3 }),
        snippet: "3 tests passed".to_owned(),
        url: Some("http://worker/report".to_owned()),
    }
}

pub fn failed(code: &str) -> Next {
    Next::Failed {
        problem: problem(code),
    }
}

pub fn retry(delay: Duration) -> Next {
    Next::Queued {
        delay,
        refund: Refund::None,
        problem: Some(problem("worker_error")),
    }
}

pub fn drained() -> Next {
    Next::Queued {
        delay: Duration::ZERO,
        refund: Refund::Drain,
        problem: None,
    }
}

pub fn host_fault() -> Next {
    Next::Queued {
        delay: Duration::ZERO,
        refund: Refund::HostFault,
        problem: Some(Problem::new("database", "gone", Blame::Host)),
    }
}

/// What ran an attempt.
pub fn plugin(name: &str, kind: Kind) -> PluginVersion {
    PluginVersion {
        name: name.parse().unwrap(),
        version: "1.2.3".to_owned(),
        digest: Digest::of(name.as_bytes()),
        kind,
    }
}

/// The attempt row that fits a next state.
pub fn record(claim: &Claim, next: &Next) -> AttemptRecord {
    let (outcome, problem) = match next {
        Next::Done { .. } => (AttemptOutcome::Done, None),
        Next::Failed { problem } if problem.code == CANCELLED => {
            (AttemptOutcome::Cancelled, Some(problem))
        }
        Next::Failed { problem } => (AttemptOutcome::Failed, Some(problem)),
        Next::Queued {
            refund, problem, ..
        } => match refund {
            Refund::None => (AttemptOutcome::Retry, problem.as_ref()),
            Refund::Drain => (AttemptOutcome::Drained, None),
            Refund::HostFault => (AttemptOutcome::HostFault, problem.as_ref()),
            Refund::Probe => (AttemptOutcome::Probe, problem.as_ref()),
        },
    };
    AttemptRecord {
        attempt: claim.attempt,
        plugin: Some(plugin("cogo-worker", Kind::Real)),
        stage: Stage::Staging,
        why: Some(Why {
            path: Path::Real,
            basis: Basis::StageDefault,
            fallback: false,
            probe: false,
            approval: None,
            rollout: None,
        }),
        wait_ms: 7,
        outcome,
        code: problem.map(|p| p.code.clone()),
        blame: problem.map(|p| p.blame),
        measured: Measured {
            run: Duration::from_millis(11),
            usage: Usage {
                cost_micro_usd: 5,
                tokens: 9,
                model: Some("m".to_owned()),
            },
            ..Measured::default()
        },
    }
}

/// The whole settlement, with the events that the domain prescribes.
pub fn settlement(claim: &Claim, next: Next) -> Settlement {
    let attempt = record(claim, &next);
    with_record(claim, next, attempt)
}

pub fn with_record(claim: &Claim, next: Next, attempt: AttemptRecord) -> Settlement {
    let subject = Subject {
        id: claim.id,
        route: &claim.route,
        trace_id: &claim.trace_id,
        task_id: claim.task_id.as_deref(),
    };
    Settlement {
        fence: claim.fence(),
        events: subject.settled(&next, &attempt),
        next,
        attempt,
        artifacts: Vec::new(),
        forward: None,
    }
}

pub fn artifact(path: &str) -> StagedArtifact {
    StagedArtifact {
        path: path.to_owned(),
        content_type: "application/json".to_owned(),
        digest: Digest::of(path.as_bytes()),
        bytes: 12,
    }
}

/// A host process, by its hands.
pub struct Hand {
    pub id: HolderId,
}

impl Hand {
    pub fn new() -> Self {
        Self {
            id: HolderId::generate("host"),
        }
    }

    pub async fn claim(&self, store: &dyn Store, route: &str, limit: u32) -> Vec<Claim> {
        self.claim_wants(store, vec![want(route)], limit).await
    }

    pub async fn claim_one(&self, store: &dyn Store, route: &str) -> Claim {
        let mut claims = self.claim(store, route, 1).await;
        assert_eq!(claims.len(), 1, "nothing to claim on {route}");
        claims.remove(0)
    }

    pub async fn claim_wants(&self, store: &dyn Store, wants: Vec<Want>, limit: u32) -> Vec<Claim> {
        let request = ClaimRequest {
            holder: &self.id,
            lease: LEASE,
            wants,
            limit,
        };
        store.claim(&request).await.unwrap()
    }

    pub async fn settle(&self, store: &dyn Store, claim: &Claim, next: Next) -> Settled {
        let settlements = [settlement(claim, next)];
        store.settle(&self.id, &settlements).await.unwrap()[0]
    }

    /// Settles where the lease must still be held.
    pub async fn end(&self, store: &dyn Store, claim: &Claim, next: Next) {
        assert_eq!(self.settle(store, claim, next).await, Settled::Applied);
    }
}
