//! The plugins as they were before all of those on the bus had come.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{LoadedPlugin, LoadedPlugins};
use crate::ids::{Digest, PluginName};

/// This host's own plugins, and of those on the bus the first few.
pub(super) struct SoFar {
    plugins: Arc<dyn LoadedPlugins>,
    arrived: BTreeSet<PluginName>,
}

impl SoFar {
    /// With the first `count` of those `on_bus`.
    pub(super) fn new(
        plugins: &Arc<dyn LoadedPlugins>,
        on_bus: &[PluginName],
        count: usize,
    ) -> Self {
        Self {
            plugins: Arc::clone(plugins),
            arrived: on_bus.iter().take(count).cloned().collect(),
        }
    }
}

impl LoadedPlugins for SoFar {
    fn get(&self, name: &PluginName, digest: Option<Digest>) -> Option<LoadedPlugin> {
        match digest {
            None if !self.arrived.contains(name) => self.plugins.own(name),
            _ => self.plugins.get(name, digest),
        }
    }

    fn own(&self, name: &PluginName) -> Option<LoadedPlugin> {
        self.plugins.own(name)
    }

    fn all(&self) -> Vec<LoadedPlugin> {
        let all = self.plugins.all().into_iter();
        all.filter_map(|plugin| self.get(&plugin.version.name, None))
            .collect()
    }

    fn others(&self, name: &PluginName) -> Vec<Digest> {
        self.plugins.others(name)
    }
}
