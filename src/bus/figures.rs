//! What the loop has counted since this process began, for graphs.
//!
//! Counts only what is durable: an attempt once its settlement was applied. Holds
//! no task, no trace and no digest, so that it stays as small as the list of
//! plugins and routes, and its lock is held for a few additions at a time.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;

use crate::attempt::{AttemptOutcome, Denial};
use crate::ids::PluginName;
use crate::route::RouteKey;
use crate::store::Settlement;

/// Upper bounds in seconds, of runs and waits alike: from a mock's task to a
/// build-test.
const SECONDS: [f64; 9] = [0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 900.0];
/// Upper bounds in settlements, up to the largest batch.
const SETTLEMENTS: [f64; 6] = [1.0, 4.0, 16.0, 64.0, 128.0, 256.0];
/// The codes that the sandbox itself gives a guest which did not return. Those a
/// plugin chooses are no label: there is no end of them.
const GUEST_ENDS: [&str; 4] = [
    "deadline_exceeded",
    "plugin_limit",
    "plugin_memory_limit",
    "plugin_trap",
];

/// How many values were at most how large.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One for each bound, of those above the bound before it.
    counts: Vec<u64>,
    pub count: u64,
    pub sum: f64,
}

impl Histogram {
    fn of(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: vec![0; bounds.len()],
            count: 0,
            sum: 0.0,
        }
    }

    fn add(&mut self, value: f64) {
        self.count += 1;
        self.sum += value;
        let fits = self.bounds.iter().position(|bound| value <= *bound);
        if let Some(count) = fits.and_then(|at| self.counts.get_mut(at)) {
            *count += 1;
        }
    }

    /// Each bound with how many values were at most that.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        let sums = self.counts.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        });
        self.bounds.iter().copied().zip(sums)
    }
}

/// Of the attempts of one plugin.
#[derive(Debug, Clone, PartialEq)]
pub struct PluginFigures {
    pub outcomes: BTreeMap<&'static str, u64>,
    /// How often a guest did not return, by the code of why.
    pub ends: BTreeMap<&'static str, u64>,
    /// By the wall's clock, waiting for the worker included.
    pub run_seconds: Histogram,
    /// The most that an attempt had.
    pub peak_memory_bytes: u64,
    /// How long its attempts kept threads busy.
    pub busy: Duration,
    /// Requests that went out.
    pub outbound_allowed: u64,
    /// Those that did not, by why.
    pub outbound_denied: BTreeMap<&'static str, u64>,
    pub log_dropped: u64,
}

/// All of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    pub plugins: BTreeMap<PluginName, PluginFigures>,
    /// From when a task was due to its claim, by route.
    pub wait_seconds: BTreeMap<RouteKey, Histogram>,
    /// Attempts that ended before a plugin was chosen, by outcome.
    pub unassigned: BTreeMap<&'static str, u64>,
    /// Calls to claim that the database answered.
    pub claims: u64,
    pub claimed: u64,
    /// How many settlements shared a commit.
    pub settle_batch: Histogram,
    /// Settlements that were refused since the lease had gone to somebody else.
    pub fenced: u64,
    /// Tasks of hosts that were gone, taken back by this one.
    pub rescued: u64,
}

impl Default for Figures {
    fn default() -> Self {
        Self {
            plugins: BTreeMap::new(),
            wait_seconds: BTreeMap::new(),
            unassigned: BTreeMap::new(),
            claims: 0,
            claimed: 0,
            settle_batch: Histogram::of(&SETTLEMENTS),
            fenced: 0,
            rescued: 0,
        }
    }
}

impl PluginFigures {
    fn new() -> Self {
        Self {
            outcomes: BTreeMap::new(),
            ends: BTreeMap::new(),
            run_seconds: Histogram::of(&SECONDS),
            peak_memory_bytes: 0,
            busy: Duration::ZERO,
            outbound_allowed: 0,
            outbound_denied: BTreeMap::new(),
            log_dropped: 0,
        }
    }

    fn add(&mut self, ended: &Ended) {
        *self.outcomes.entry(ended.outcome.as_str()).or_default() += 1;
        if let Some(code) = ended.guest_end {
            *self.ends.entry(code).or_default() += 1;
        }
        self.run_seconds.add(ended.run.as_secs_f64());
        self.peak_memory_bytes = self.peak_memory_bytes.max(ended.peak_memory_bytes);
        self.busy = self.busy.saturating_add(ended.busy);
        self.outbound_allowed += u64::from(ended.outbound_allowed);
        for (denial, times) in &ended.outbound_denied {
            *self.outbound_denied.entry(denial.as_str()).or_default() += u64::from(*times);
        }
        self.log_dropped += u64::from(ended.log_dropped);
    }
}

/// Where the parts of the loop count.
#[derive(Default)]
pub(super) struct Tally(Mutex<Figures>);

impl Tally {
    pub(super) fn read(&self) -> Figures {
        self.0.lock().clone()
    }

    pub(super) fn claimed(&self, tasks: usize) {
        let mut figures = self.0.lock();
        figures.claims += 1;
        figures.claimed += tasks as u64;
    }

    pub(super) fn committed(&self, settlements: usize) {
        self.0.lock().settle_batch.add(settlements as f64);
    }

    pub(super) fn rescued(&self, tasks: usize) {
        self.0.lock().rescued += tasks as u64;
    }

    pub(super) fn fenced(&self) {
        self.0.lock().fenced += 1;
    }

    pub(super) fn ended(&self, ended: &Ended) {
        self.0.lock().add(ended);
    }
}

/// What is counted of an attempt once its settlement is applied.
pub(super) struct Ended {
    route: RouteKey,
    plugin: Option<PluginName>,
    outcome: AttemptOutcome,
    guest_end: Option<&'static str>,
    wait: Duration,
    run: Duration,
    peak_memory_bytes: u64,
    busy: Duration,
    outbound_allowed: u32,
    outbound_denied: BTreeMap<Denial, u32>,
    log_dropped: u32,
}

impl Ended {
    /// Nothing where the route is unknown, which no settlement of the loop's lacks.
    pub(super) fn of(settlement: &Settlement) -> Option<Self> {
        let record = &settlement.attempt;
        let route = settlement.events.first()?.route.as_ref()?;
        let code = record.code.as_deref();
        let measured = &record.measured;
        Some(Self {
            route: route.key.clone(),
            plugin: record.plugin.as_ref().map(|plugin| plugin.name.clone()),
            outcome: record.outcome,
            guest_end: GUEST_ENDS.into_iter().find(|end| code == Some(end)),
            wait: Duration::from_millis(record.wait_ms),
            run: measured.run,
            peak_memory_bytes: measured.peak_memory_bytes,
            busy: measured.busy,
            outbound_allowed: measured.outbound_allowed(),
            outbound_denied: measured.outbound_denied.clone(),
            log_dropped: measured.log_dropped,
        })
    }
}

impl Figures {
    fn add(&mut self, ended: &Ended) {
        match &ended.plugin {
            Some(name) => match self.plugins.get_mut(name) {
                Some(plugin) => plugin.add(ended),
                None => {
                    let mut plugin = PluginFigures::new();
                    plugin.add(ended);
                    self.plugins.insert(name.clone(), plugin);
                }
            },
            None => *self.unassigned.entry(ended.outcome.as_str()).or_default() += 1,
        }
        let waits = self.wait_seconds.entry(ended.route.clone());
        let waits = waits.or_insert_with(|| Histogram::of(&SECONDS));
        waits.add(ended.wait.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_what_is_below_its_bound_and_nothing_is_lost_above_the_last() {
        let mut histogram = Histogram::of(&SETTLEMENTS);
        for value in [1.0, 2.0, 4.0, 256.0, 9_999.0] {
            histogram.add(value);
        }
        let buckets: Vec<(f64, u64)> = histogram.buckets().collect();
        assert_eq!(
            buckets,
            [
                (1.0, 1),
                (4.0, 3),
                (16.0, 3),
                (64.0, 3),
                (128.0, 3),
                (256.0, 4)
            ]
        );
        assert_eq!((histogram.count, histogram.sum), (5, 10_262.0));
    }
}
