//! What the bus says to serve, and how this host follows it.
//!
//! **Invariants.** What is ready serves at once; what is not is loaded beside it,
//! through every check of the loader, and what served goes on serving meanwhile.
//! In development a file that somebody changes after a decision beats it on this
//! host; elsewhere nothing but the next decision does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::counts::Swap;
use super::kept::Mark;
use super::published::Fetched;
use super::{SwapEvent, Swapper, Version};
use crate::control::{ServingCause, ServingRow};
use crate::ids::{Digest, PluginName, TraceId};
use crate::plugin::catalog::{Failure, Outgoing, Served};
use crate::plugin::load::Source;
use crate::store::{Component, Store};

/// The code of a version that is to serve and is not to be had here.
const LACKING: &str = "P161";

/// Which version of each plugin is to serve, by name.
pub type Decisions = BTreeMap<PluginName, ServingRow>;

/// What this host knows of the decisions.
#[derive(Debug, Default)]
pub(super) struct Decided {
    rows: Decisions,
    /// Decisions that a change of the plugin's file came after.
    passed_over: BTreeMap<PluginName, TraceId>,
    /// Decisions for versions that are not to be had here, told once.
    lacking: BTreeSet<TraceId>,
    /// Decisions for versions that do not load, tried once.
    failed: BTreeSet<TraceId>,
}

impl Swapper {
    /// Follows what is decided, as far as that takes no time. What is left is to
    /// be loaded: see [`Swapper::fetch_decided`].
    pub fn follow_decided(&self, decisions: &Decisions) -> Vec<SwapEvent> {
        let before = std::mem::replace(&mut self.decided.lock().rows, decisions.clone());
        let mut events = Vec::new();
        for row in decisions.values().filter(|row| !self.is_passed_over(row)) {
            if self.serves(row) {
                self.note(row);
            } else if let Some(served) =
                self.catalog
                    .serve_ready(&row.plugin, row.digest, outgoing(row))
            {
                events.push(self.followed(row, &served));
            }
        }
        let gone = self.released(&before, decisions);
        events.extend(gone.iter().filter_map(|name| self.release(name)));
        self.forget_lacks();
        events
    }

    /// Loads what is decided and not ready, one plugin after the other, and lets
    /// it serve.
    pub async fn fetch_decided(
        &self,
        bus: Option<&dyn Store>,
        ending: &CancellationToken,
    ) -> Fetched {
        let rows: Vec<ServingRow> = self.decided.lock().rows.values().cloned().collect();
        let mut fetched = Fetched::default();
        for row in rows {
            let is_over = self.decided.lock().failed.contains(&row.trace_id);
            if is_over || self.is_passed_over(&row) || self.serves(&row) {
                continue;
            }
            match self.obtain(&row.plugin, row.digest, bus).await {
                Ok(Some((component, source))) => {
                    fetched
                        .events
                        .extend(self.fetch(&row, component, source, ending).await);
                }
                Ok(None) => fetched.events.extend(self.lacks(&row)),
                Err(error) => fetched.later(&error),
            }
        }
        fetched
    }

    async fn fetch(
        &self,
        row: &ServingRow,
        component: Component,
        source: Source,
        ending: &CancellationToken,
    ) -> Option<SwapEvent> {
        let name = &row.plugin;
        let place = self.place(name, row.digest, source);
        let (bytes, signature) = (component.bytes.clone(), component.signature.clone());
        let loaded = match self.vouched(name, component, source, &place) {
            Ok(candidate) => self.load(candidate, ending).await?,
            Err(error) => Err(error),
        };
        match loaded {
            Ok(plugin) => {
                self.keep(name, row.digest, bytes, signature).await;
                self.catalog.offer(Arc::new(plugin));
                // Something else may have been decided meanwhile.
                let still = self.decided_for(name) == Some(row.digest);
                let served =
                    still.then(|| self.catalog.serve_ready(name, row.digest, outgoing(row)));
                served.flatten().map(|served| self.followed(row, &served))
            }
            Err(error) => {
                self.decided.lock().failed.insert(row.trace_id.clone());
                Some(self.refuse(name, Some(row.digest), &error))
            }
        }
    }

    /// The version that the bus says to serve, if this host follows it.
    pub(super) fn decided_for(&self, name: &PluginName) -> Option<Digest> {
        self.decision(name).map(|row| row.digest)
    }

    /// The decision about a plugin that this host follows.
    pub(super) fn decision(&self, name: &PluginName) -> Option<ServingRow> {
        let row = self.decided.lock().rows.get(name).cloned();
        row.filter(|row| !self.is_passed_over(row))
    }

    /// Lets what somebody does here have its way over what was decided before.
    pub(super) fn pass_over(&self, row: &ServingRow) {
        self.kept.pass_over(&row.plugin, &row.trace_id);
        let mut decided = self.decided.lock();
        let (name, id) = (row.plugin.clone(), row.trace_id.clone());
        decided.passed_over.insert(name, id);
    }

    fn is_passed_over(&self, row: &ServingRow) -> bool {
        let known = self.decided.lock().passed_over.get(&row.plugin).cloned();
        let known = known.or_else(|| self.kept.passed_over(&row.plugin));
        known.as_ref() == Some(&row.trace_id) || self.is_outdated(row)
    }

    fn serves(&self, row: &ServingRow) -> bool {
        let serving = self.catalog.get(&row.plugin);
        serving.is_some_and(|plugin| plugin.digest() == row.digest)
    }

    fn followed(&self, row: &ServingRow, served: &Served) -> SwapEvent {
        let (before, now) = (
            served.before.as_deref().map(Version::of),
            Version::of(&served.now),
        );
        tracing::warn!(
            plugin.name = %row.plugin, plugin.digest = %row.digest, trace.id = %row.trace_id,
            "plugin {} serves as {now}, as {} decided", row.plugin, row.actor
        );
        self.catalog.recovered(&row.plugin);
        self.note(row);
        let swap = match row.cause {
            ServingCause::Promotion => Swap::Applied,
            ServingCause::Rollback => Swap::RolledBack,
        };
        self.counts.count(&row.plugin, swap);
        SwapEvent::followed(&row.plugin, before, now, row)
    }

    /// Has a rollback outlive the host while the plugin's file holds what it
    /// holds now.
    fn note(&self, row: &ServingRow) {
        let file = self.files.lock().get(&row.plugin).copied();
        let Some(from) =
            file.filter(|file| row.cause == ServingCause::Rollback && *file != row.digest)
        else {
            return;
        };
        let mark = Mark {
            from,
            to: row.digest,
            decision: Some(row.trace_id.clone()),
        };
        if self.kept.marked(&row.plugin).as_ref() != Some(&mark) {
            self.kept.mark(&row.plugin, &mark);
        }
    }

    /// Tells once that a version is not to be had here.
    fn lacks(&self, row: &ServingRow) -> Option<SwapEvent> {
        let is_new = self.decided.lock().lacking.insert(row.trace_id.clone());
        is_new.then(|| {
            let failure = Failure {
                code: LACKING,
                message: format!(
                    "{} decided that {} serves as {}, which this host does not have",
                    row.actor, row.plugin, row.digest
                ),
                hint: "publish that version with `cogo-host plugin publish FILE`, or put its file into COGO_PLUGINS_DIR of this host".to_owned(),
            };
            self.reject(&row.plugin, Some(row.digest), failure)
        })
    }

    /// Forgets that a version was not to be had which is not wanted any more, or
    /// serves by now.
    fn forget_lacks(&self) {
        for listed in self.catalog.list() {
            let failure = listed.last_failure.as_ref();
            if failure.is_none_or(|failure| failure.code != LACKING) {
                continue;
            }
            let row = self.decision(&listed.name);
            let row = row.filter(|row| !self.serves(row));
            let is_told = |row: ServingRow| self.decided.lock().lacking.contains(&row.trace_id);
            if !row.is_some_and(is_told) {
                self.catalog.recovered(&listed.name);
            }
        }
    }

    /// The plugins that were decided about and are no more, also while no host
    /// ran here.
    fn released(&self, before: &Decisions, now: &Decisions) -> Vec<PluginName> {
        let over = |name: &PluginName| !now.contains_key(name);
        let mut gone: Vec<PluginName> = before.keys().filter(|name| over(name)).cloned().collect();
        let listed = self.catalog.list().into_iter().map(|listed| listed.name);
        let is_marked = |name: &PluginName| {
            let mark = self.kept.marked(name);
            mark.is_some_and(|mark| mark.decision.is_some())
        };
        gone.extend(listed.filter(|name| over(name) && is_marked(name)));
        gone.sort();
        gone.dedup();
        gone
    }

    /// Goes back to this host's own rule.
    fn release(&self, name: &PluginName) -> Option<SwapEvent> {
        self.kept.unmark(name);
        self.catalog.end_rollback(name);
        self.serve_own(name, "nothing is decided about it any more")
    }
}

const fn outgoing(row: &ServingRow) -> Outgoing {
    match row.cause {
        ServingCause::Promotion => Outgoing::Succeeded,
        ServingCause::Rollback => Outgoing::TakenBack,
    }
}
