//! The host around the API, as these tests need it: an executor that does what
//! the payload says, one plugin for one pair of routes, and facts about both.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cogo_host::api::{
    Candidacy, DirectoryStateView, DirectoryView, ExecutorNow, FlagView, HostFacts, PluginOperator,
    PluginSource, PluginView, PreviousView, Profile, PublishOrder, PublishRefused, PublishView,
    ReadinessCheck, RefusedFileView, RollbackOrder, RollbackView, RolloutRefused, RouteDecided,
    RouteOperator, RouteRefused, RouteView, ServingView, SwapCounts, VersionView, Versions,
};
use cogo_host::artifacts::Artifacts as _;
use cogo_host::artifacts::published::PublishedArtifacts;
use cogo_host::attempt::{
    Attempt, AttemptControl, AttemptEnd, AttemptReport, Blame, Denial, Executor, Kind, LogLevel,
    LogLine, Measured, PluginVersion, Problem, Progress, Span, StagedArtifact, StopReason,
};
use cogo_host::ids::{Digest, MessageId, PluginName, TraceId};
use cogo_host::plugin::catalog::RollbackError;
use cogo_host::report::{Outcome, Report};
use cogo_host::route::{Policy, RouteKey, RoutePlugins};
use cogo_host::routing::{
    Assigned, EndedAttempt, Hold, KnownRoute, Routing, ServedRoute, Unassigned,
};
use cogo_host::selection::{Basis, Path, Why};
use cogo_host::stage::Stage;
use cogo_host::task::Claim;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::mpsc;

pub const ROUTE: &str = "code/build-test";

fn plugin() -> PluginVersion {
    PluginVersion {
        name: "obedient".parse().unwrap(),
        version: "1.2.3".to_owned(),
        digest: Digest::of(b"obedient"),
        kind: Kind::Mock,
    }
}

fn why() -> Why {
    Why {
        path: Path::Only,
        basis: Basis::OnlyPlugin,
        fallback: false,
        probe: false,
        approval: None,
        rollout: None,
    }
}

/// Does what the payload's `do` says: `hang`, `fail`, or else a passed
/// build-test with the payload's `files` as artifacts.
pub struct Obedient {
    pub artifacts: PublishedArtifacts,
    /// Hears of each attempt that hangs.
    pub hanging: mpsc::UnboundedSender<MessageId>,
}

#[async_trait]
impl Executor for Obedient {
    async fn execute(&self, attempt: Attempt, control: AttemptControl) -> AttemptReport {
        let payload: Value = serde_json::from_str(&attempt.payload).unwrap();
        let end = match payload["do"].as_str() {
            Some("hang") => self.hang(&attempt, control).await,
            Some("fail") => {
                AttemptEnd::Permanent(Problem::new("no_way", "told to fail", Blame::Guest))
            }
            _ => AttemptEnd::Completed(passed()),
        };
        AttemptReport {
            end,
            measured: measured(),
            artifacts: self.stage(&payload["files"]).await,
        }
    }
}

impl Obedient {
    async fn hang(&self, attempt: &Attempt, mut control: AttemptControl) -> AttemptEnd {
        control.progress.send_replace(Some(Progress {
            fraction: Some(0.5),
            note: "half of it".to_owned(),
        }));
        let _ = self.hanging.send(attempt.fence.id);
        let stop = control.stop.wait_for(Option::is_some).await;
        let reason = stop.ok().and_then(|stop| *stop);
        AttemptEnd::Stopped(reason.unwrap_or(StopReason::Draining))
    }

    async fn stage(&self, files: &Value) -> Vec<StagedArtifact> {
        let mut staged = Vec::new();
        for file in files.as_array().into_iter().flatten() {
            let text = |name: &str| file[name].as_str().unwrap().to_owned();
            let path = text("path").parse().unwrap();
            let stage = self
                .artifacts
                .stage(path, text("type"), text("text").into());
            staged.push(stage.await.unwrap());
        }
        staged
    }
}

fn passed() -> Outcome {
    Outcome {
        report: Report::BuildTest {
            passed: true,
            tests: 3,
            failures: 0,
            duration_ms: 12,
            report_url: None,
        },
        snippet: None,
        url: None,
        attributes: Vec::new(),
    }
}

fn measured() -> Measured {
    Measured {
        run: Duration::from_millis(12),
        peak_memory_bytes: 65_536,
        busy: Duration::from_millis(250),
        outbound_requests: 1,
        outbound_denied: [(Denial::TooMany, 5)].into(),
        spans: vec![Span {
            name: "http".into(),
            start_us: 100,
            duration_us: 900,
            fields: [("status".to_owned(), "200".to_owned())].into(),
        }],
        log: vec![LogLine {
            at_us: 50,
            level: LogLevel::Info,
            message: "hello".to_owned(),
        }],
        ..Measured::default()
    }
}

pub struct OnePlugin;

impl Routing for OnePlugin {
    fn served(&self) -> Vec<ServedRoute> {
        vec![ServedRoute {
            key: ROUTE.parse().unwrap(),
            shard: None,
            tenant: None,
            concurrency: 4,
            plugin: plugin().name,
            plugin_concurrency: 4,
            reclaim_foreign_after: None,
            draw: None,
            only_probe: false,
        }]
    }

    fn known(&self) -> Vec<KnownRoute> {
        self.served().iter().map(ServedRoute::known).collect()
    }

    fn assign(&self, _: &Claim, _: bool) -> Result<Assigned, Unassigned> {
        Ok(Assigned {
            plugin: plugin(),
            why: why(),
            deadline: Duration::from_secs(60),
            probe: None,
            hold: Hold::default(),
        })
    }

    fn ended(&self, _: EndedAttempt) {}
}

/// What the host says of itself; a test may turn its readiness off.
pub struct Facts {
    pub stage: Stage,
    pub ci: bool,
    pub not_ready: Mutex<Option<String>>,
}

impl Facts {
    pub fn new(stage: Stage) -> Arc<Self> {
        Arc::new(Self {
            stage,
            ci: false,
            not_ready: Mutex::default(),
        })
    }
}

impl HostFacts for Facts {
    fn stage(&self) -> Stage {
        self.stage
    }

    fn ci(&self) -> bool {
        self.ci
    }

    fn flag(&self) -> FlagView {
        FlagView {
            name: "ENABLE_COGO_WORKER".to_owned(),
            value: None,
            origin: "default".to_owned(),
        }
    }

    fn handled(&self) -> Vec<RouteKey> {
        vec![ROUTE.parse().unwrap()]
    }

    fn policy(&self, _: &RouteKey) -> Policy {
        Policy::Required
    }

    fn routes(&self) -> Vec<RouteView> {
        let route = |key: &str, served, now| RouteView {
            route: key.parse().unwrap(),
            policy: Policy::Required,
            plugins: Some(RoutePlugins::Only(plugin().name)),
            served,
            now,
            decided: RouteDecided::default(),
        };
        let runs = ExecutorNow::Runs {
            executor: plugin(),
            why: why(),
        };
        let missing = ExecutorNow::Missing {
            problem: "no plugin handles it".to_owned(),
        };
        vec![
            route(ROUTE, true, runs),
            route("docs/render", false, missing),
        ]
    }

    fn plugins(&self) -> Vec<PluginView> {
        let PluginVersion {
            name,
            version,
            digest,
            kind,
        } = plugin();
        let broken = PluginView {
            name: "broken".parse().unwrap(),
            source: PluginSource::File {
                path: "plugins/broken.wasm".into(),
            },
            serving: None,
            last_error: Some("P110: not a component".to_owned()),
            hint: Some("copy or build it again".to_owned()),
            candidates: Vec::new(),
            previous: Vec::new(),
            rolled_back_from: None,
            down_on: Vec::new(),
        };
        let serving = ServingView {
            version,
            digest,
            kind,
            handles: self.handled(),
            profile: Profile::Minimal,
            source: None,
            signer: None,
        };
        vec![
            PluginView {
                name,
                source: PluginSource::Bundled,
                serving: Some(serving),
                last_error: None,
                hint: None,
                candidates: Vec::new(),
                previous: vec![PreviousView {
                    version: "1.2.4".to_owned(),
                    digest: Digest::of(b"newer"),
                    rolled_back: true,
                }],
                rolled_back_from: Some(Digest::of(b"newer")),
                down_on: vec![ROUTE.parse().unwrap()],
            },
            broken,
        ]
    }

    fn swaps(&self) -> BTreeMap<PluginName, SwapCounts> {
        let counts = SwapCounts {
            applied: 3,
            refused: 2,
            rolled_back: 1,
        };
        [(plugin().name, counts)].into()
    }

    fn plugins_directory(&self) -> Option<DirectoryView> {
        Some(DirectoryView {
            path: "plugins".into(),
            state: DirectoryStateView::Watched,
            problem: None,
            refused_files: vec![RefusedFileView {
                file: "plugins/Broken.wasm".to_owned(),
                error: "P100: `Broken` is not a plugin name".to_owned(),
                hint: "rename the file".to_owned(),
            }],
        })
    }

    fn readiness(&self) -> Vec<ReadinessCheck> {
        let problem = self.not_ready.lock().clone();
        vec![ReadinessCheck {
            name: "disk".to_owned(),
            ok: problem.is_none(),
            detail: problem.unwrap_or_else(|| "enough room".to_owned()),
        }]
    }
}

/// Rolls the one plugin back, and knows what it was told.
#[derive(Default)]
pub struct Operator(pub Mutex<Vec<RollbackOrder>>);

#[async_trait]
impl PluginOperator for Operator {
    async fn publish(&self, order: PublishOrder) -> Result<PublishView, PublishRefused> {
        let PluginVersion { name, version, .. } = plugin();
        let digest = Digest::of(&order.bytes);
        if order.bytes.as_ref() == b"other bytes" {
            return Err(PublishRefused::Taken {
                name,
                version,
                by: digest,
            });
        }
        Ok(PublishView {
            plugin: name,
            version,
            digest,
            bytes: order.bytes.len() as u64,
            changed: true,
            trace_id: None,
        })
    }

    async fn roll_back(&self, order: RollbackOrder) -> Result<RollbackView, RollbackError> {
        self.0.lock().push(order.clone());
        let PluginVersion {
            name,
            version,
            digest,
            ..
        } = plugin();
        if order.plugin != name {
            return Err(RollbackError::NoPlugin(order.plugin));
        }
        match order.to {
            Some(wanted) => Err(RollbackError::NoVersion {
                name,
                wanted,
                known: vec![digest],
            }),
            None => Ok(RollbackView {
                plugin: name,
                from: None,
                to: VersionView { version, digest },
                everywhere: true,
                problem: None,
                trace_id: Some("0123456789abcdef".parse::<TraceId>().unwrap()),
            }),
        }
    }
}

/// Knows the one route, and that nothing real can run on it.
pub struct Desk;

#[async_trait]
impl RouteOperator for Desk {
    fn check_route(&self, route: &RouteKey) -> Result<(), RouteRefused> {
        let known: RouteKey = ROUTE.parse().unwrap();
        match *route == known {
            true => Ok(()),
            false => Err(RouteRefused::Unknown {
                asked: route.clone(),
                known: vec![known],
            }),
        }
    }

    fn check_flag(&self, route: &RouteKey, to: Option<bool>) -> Result<(), RouteRefused> {
        self.check_route(route)?;
        match to {
            Some(true) => Err(RouteRefused::Unrunnable {
                route: route.clone(),
                problem: "plugin `real` is to run, but X is not set".to_owned(),
            }),
            _ => Ok(()),
        }
    }

    fn check_fallback(&self, route: &RouteKey) -> Result<(), RouteRefused> {
        self.check_route(route)
    }

    fn check_rollout(&self, wish: &Candidacy) -> Result<Versions, RolloutRefused> {
        self.check_route(&wish.route)?;
        let (plugin, digest) = (plugin(), Digest::of(b"candidate"));
        if wish.plugin != plugin.name {
            return Err(RolloutRefused::NotOnRoute {
                route: wish.route.clone(),
                plugin: wish.plugin.clone(),
                known: vec![plugin.name],
            });
        }
        if !wish.digest.begins(digest) {
            return Err(RolloutRefused::UnknownCandidate {
                plugin: plugin.name,
                digest: wish.digest.to_string(),
                known: vec![digest],
            });
        }
        Ok(Versions {
            candidate: digest,
            stable: Some(plugin.digest),
        })
    }

    async fn follow(&self) {}
}
