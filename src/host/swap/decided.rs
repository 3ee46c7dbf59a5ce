//! What the bus says to serve, and how this host follows it.
//!
//! **Invariants.** What is ready serves at once; what is not is loaded beside it,
//! through every check of the loader, and what served goes on serving meanwhile.
//! In development a file that somebody changes after a decision beats it on this
//! host; elsewhere nothing but the next decision does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::kept::Mark;
use super::{SwapEvent, Swapper, Version, plugins};
use crate::control::{ServingCause, ServingRow};
use crate::ids::{Digest, PluginName, TraceId};
use crate::plugin::catalog::{Failure, Outgoing, Served};
use crate::plugin::load::{Candidate, Settings, Source};
use crate::stage::Stage;

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
        events
    }

    /// Loads what is decided and not ready, one plugin after the other, and lets
    /// it serve.
    pub async fn fetch_decided(&self, ending: &CancellationToken) -> Vec<SwapEvent> {
        let rows: Vec<ServingRow> = self.decided.lock().rows.values().cloned().collect();
        let mut events = Vec::new();
        for row in rows {
            let is_over = self.decided.lock().failed.contains(&row.trace_id);
            if is_over || self.is_passed_over(&row) || self.serves(&row) {
                continue;
            }
            if let Some(event) = self.fetch(&row, ending).await {
                events.push(event);
            }
        }
        events
    }

    async fn fetch(&self, row: &ServingRow, ending: &CancellationToken) -> Option<SwapEvent> {
        let name = &row.plugin;
        let Some(bytes) = self.kept.component(name, row.digest) else {
            return self.lacks(row);
        };
        let source = Source::Directory;
        let candidate = Candidate {
            name: Some(name.clone()),
            bytes,
            source,
            place: self.kept.path(name, row.digest).display().to_string(),
        };
        let settings = Settings {
            // The decision is as good as a pin.
            pin: Some(row.digest),
            ..plugins::settings(&self.config, Some(name), source)
        };
        match self.load(candidate, settings, ending).await? {
            Ok(plugin) => {
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
        known.as_ref() == Some(&row.trace_id)
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
                code: "P161",
                message: format!(
                    "{} decided that {} serves as {}, which this host does not have",
                    row.actor, row.plugin, row.digest
                ),
                hint: "put that version's file into COGO_PLUGINS_DIR of this host".to_owned(),
            };
            self.reject(&row.plugin, Some(row.digest), failure)
        })
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
        const WHY: &str = "nothing is decided about it any more";
        self.kept.unmark(name);
        self.catalog.end_rollback(name);
        let pin = plugins::settings(&self.config, Some(name), Source::Directory).pin;
        let file = self.files.lock().get(name).copied();
        let own = file.filter(|file| self.config.stage == Stage::Development || pin == Some(*file));
        let serving = self.catalog.get(name);
        let Some(own) = own else {
            let removed = self.catalog.remove(name);
            return self.back_to_bundled(name, removed, WHY);
        };
        if serving.is_some_and(|plugin| plugin.digest() == own) {
            return None;
        }
        let served = self.catalog.serve_ready(name, own, Outgoing::Succeeded)?;
        let now = Version::of(&served.now);
        Some(match served.before.as_deref() {
            Some(before) => SwapEvent::swapped(name, Version::of(before), Some(now), WHY),
            None => SwapEvent::loaded(name, now),
        })
    }
}

const fn outgoing(row: &ServingRow) -> Outgoing {
    match row.cause {
        ServingCause::Promotion => Outgoing::Succeeded,
        ServingCause::Rollback => Outgoing::TakenBack,
    }
}
