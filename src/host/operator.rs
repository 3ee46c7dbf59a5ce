//! What operators do to the plugins of this host: done at once, recorded with
//! who and why.

use std::sync::Arc;

use super::recorder::Recorder;
use super::swap::{SwapEvent, Swapper};
use crate::api::{PluginOperator, RollbackOrder, RollbackView, VersionView};
use crate::ids::HolderId;
use crate::plugin::catalog::RollbackError;
use crate::plugin::load::Plugin;

/// The operator's hands.
pub struct Operator {
    pub swapper: Arc<Swapper>,
    pub recorder: Recorder,
    pub holder: HolderId,
}

impl PluginOperator for Operator {
    fn roll_back(&self, order: RollbackOrder) -> Result<RollbackView, RollbackError> {
        let RollbackOrder {
            plugin,
            to,
            actor,
            reason,
        } = order;
        let rolled_back = self.swapper.roll_back(&plugin, to.as_ref())?;
        let event = SwapEvent::rolled_back(&plugin, &rolled_back, actor, reason.as_deref());
        let view = RollbackView {
            plugin,
            from: rolled_back.from.as_deref().map(version),
            to: version(&rolled_back.to),
            trace_id: event.trace_id.clone(),
        };
        self.recorder.record(event.into_event(&self.holder));
        Ok(view)
    }
}

fn version(plugin: &Plugin) -> VersionView {
    VersionView {
        version: plugin.descriptor().version.to_string(),
        digest: plugin.digest(),
    }
}
