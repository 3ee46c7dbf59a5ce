//! What operators do to plugins: done on this host at once, written on the bus
//! with who and why, and followed by every other host.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::controls::LiveControls;
use super::recorder::Recorder;
use super::serving;
use super::swap::{SwapEvent, Swapper};
use crate::api::{
    PluginOperator, PublishOrder, PublishRefused, PublishView, RollbackOrder, RollbackView,
    VersionView,
};
use crate::bus::outage::bounded;
use crate::control::{Decided, Decider, Decision, Published};
use crate::ids::HolderId;
use crate::plugin::catalog::RollbackError;
use crate::plugin::load::Plugin;
use crate::store::{NewPublished, Store};

/// How long the database may take over a decision.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long it may take to write a component of the largest size.
const UPLOAD: Duration = Duration::from_secs(60);

/// The operator's hands.
pub struct Operator {
    pub swapper: Arc<Swapper>,
    pub store: Arc<dyn Store>,
    pub controls: Arc<LiveControls>,
    pub recorder: Recorder,
    pub holder: HolderId,
}

#[async_trait]
impl PluginOperator for Operator {
    async fn roll_back(&self, order: RollbackOrder) -> Result<RollbackView, RollbackError> {
        let RollbackOrder {
            plugin,
            to,
            actor,
            reason,
        } = order;
        // Here at once, whatever the database does.
        let rolled_back = match self.swapper.roll_back(&plugin, to.as_ref()) {
            Ok(rolled_back) => rolled_back,
            // A host that has just started may not have all at hand that served.
            Err(_) => {
                let _ = tokio::time::timeout(PATIENCE, self.swapper.recalled()).await;
                self.swapper.roll_back(&plugin, to.as_ref())?
            }
        };
        let mut view = RollbackView {
            from: rolled_back.from.as_deref().map(version),
            to: version(&rolled_back.to),
            everywhere: true,
            problem: None,
            trace_id: None,
            plugin,
        };
        let decision = Decision {
            by: Decider::Named(actor.clone()),
            reason: reason.clone(),
        };
        let wish = SwapEvent::order(&view.plugin, &rolled_back, &self.holder);
        match bounded(PATIENCE, self.store.set_serving(&wish, &decision)).await {
            Ok(Decided::Changed { trace_id }) => view.trace_id = Some(trace_id),
            Ok(Decided::Already) => {}
            Err(error) => {
                tracing::error!(%error, "plugin {} is rolled back on this host alone", view.plugin);
                view.everywhere = false;
                view.problem = Some(error.to_string());
            }
        }
        if view.trace_id.is_none() {
            let reason = reason.as_ref().map(|reason| reason.as_str());
            let event = SwapEvent::rolled_back(&view.plugin, &rolled_back, actor, reason);
            view.trace_id = Some(event.trace_id.clone());
            self.recorder.record(event.into_event(&self.holder));
        } else if self.controls.refresh(&*self.store).await.is_ok() {
            // This host follows already; what it keeps of that is written now.
            for event in serving::follow_now(&self.swapper, &self.controls) {
                self.recorder.record(event.into_event(&self.holder));
            }
        }
        Ok(view)
    }

    async fn publish(&self, order: PublishOrder) -> Result<PublishView, PublishRefused> {
        let decision = Decision {
            by: Decider::Named(order.actor),
            reason: order.reason,
        };
        let signature = order.signature.as_deref();
        let checked = self.swapper.publishable(order.bytes.clone(), signature);
        let plugin = checked.await?;
        let published = publish(&*self.store, &plugin, &order.bytes, signature, &decision);
        let view = published.await?;
        self.controls.nudge();
        Ok(view)
    }
}

/// Puts a component that was checked on the bus.
///
/// # Errors
/// [`PublishRefused`] when its version is taken, or the bus does not take it.
pub async fn publish(
    store: &dyn Store,
    plugin: &Plugin,
    bytes: &[u8],
    signature: Option<&str>,
    decision: &Decision,
) -> Result<PublishView, PublishRefused> {
    let (name, version) = (plugin.name(), plugin.descriptor().version.to_string());
    let new = NewPublished {
        name,
        version: &version,
        digest: plugin.digest(),
        bytes,
        signature,
        decision,
    };
    let trace_id = match bounded(UPLOAD, store.publish(&new)).await? {
        Published::Now { trace_id } => Some(trace_id),
        Published::Already => None,
        Published::Taken { by } => {
            let name = name.clone();
            return Err(PublishRefused::Taken { name, version, by });
        }
    };
    Ok(PublishView {
        plugin: name.clone(),
        digest: plugin.digest(),
        bytes: plugin.bytes(),
        changed: trace_id.is_some(),
        version,
        trace_id,
    })
}

fn version(plugin: &Plugin) -> VersionView {
    VersionView {
        version: plugin.descriptor().version.to_string(),
        digest: plugin.digest(),
    }
}
