//! How often versions of plugins came in since the host began, and what became of
//! that, for graphs.
//!
//! Holds a few numbers for each name; what is no plugin's name counts nowhere.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::api::SwapCounts;
use crate::ids::PluginName;

/// What became of a version.
#[derive(Debug, Clone, Copy)]
pub(super) enum Swap {
    /// It serves.
    Applied,
    /// It does not, and what served goes on serving.
    Refused,
    /// It serves again, in place of what was taken back.
    RolledBack,
}

#[derive(Default)]
pub(super) struct Counts(Mutex<BTreeMap<PluginName, SwapCounts>>);

impl Counts {
    pub(super) fn count(&self, name: &PluginName, swap: Swap) {
        let mut all = self.0.lock();
        let counts = all.entry(name.clone()).or_default();
        let count = match swap {
            Swap::Applied => &mut counts.applied,
            Swap::Refused => &mut counts.refused,
            Swap::RolledBack => &mut counts.rolled_back,
        };
        *count += 1;
    }

    pub(super) fn read(&self) -> BTreeMap<PluginName, SwapCounts> {
        self.0.lock().clone()
    }
}
