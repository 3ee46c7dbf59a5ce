//! Asks a plugin what it is: the only call before it is installed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

use super::LoadCause;
use crate::plugin::bindings::exports::cogo::executor::plugin::Descriptor;
use crate::plugin::bindings::{ExecutorPlugin, ExecutorPluginPre};
use crate::plugin::host::{State, StoreParts, new_store};
use crate::plugin::journal::Journal;
use crate::plugin::limits::{Limits, TimeBudget};
use crate::plugin::outbound::Hooks;
use crate::plugin::sandbox::failure;

/// A description is a constant; an interpreter may have to start first.
const DEADLINE: Duration = Duration::from_secs(5);

/// Calls `describe` in an instance of its own, without network, configuration or
/// task.
pub(super) async fn describe(
    guest: &Handle,
    pre: ExecutorPluginPre<State>,
    limits: Arc<Limits>,
) -> Result<Descriptor, LoadCause> {
    let asked = AbortOnDropHandle::new(guest.spawn(ask(pre, limits)));
    match asked.await {
        Ok(answer) => answer,
        Err(cause) => Err(LoadCause::Host(cause.to_string())),
    }
}

/// Which step failed.
enum Asking {
    Linking(wasmtime::Error),
    Running(wasmtime::Error),
}

async fn ask(pre: ExecutorPluginPre<State>, limits: Arc<Limits>) -> Result<Descriptor, LoadCause> {
    let deadline = DEADLINE.min(limits.deadline);
    let start = Instant::now();
    let budget = TimeBudget::starting(start, deadline, Duration::ZERO);
    let parts = StoreParts {
        journal: Arc::new(Journal::new(start, limits.log.clone())),
        limits,
        config: Arc::new(BTreeMap::new()),
        hooks: Hooks::closed(),
        budget,
        task: None,
    };
    let mut store = new_store(pre.engine(), parts);
    let call = async {
        let instance = pre.instance_pre().instantiate_async(&mut store).await;
        let instance = instance.map_err(Asking::Running)?;
        // Compares the types of what is exported.
        let plugin = ExecutorPlugin::new(&mut store, &instance).map_err(Asking::Linking)?;
        let described = plugin.cogo_executor_plugin().call_describe(&mut store);
        described.await.map_err(Asking::Running)
    };
    match tokio::time::timeout_at(budget.end.into(), call).await {
        Ok(Ok(descriptor)) => Ok(descriptor),
        Ok(Err(Asking::Linking(cause))) => Err(LoadCause::link(cause)),
        Ok(Err(Asking::Running(cause))) if failure::is_interrupt(&cause) => {
            Err(LoadCause::DescribeTimedOut(deadline))
        }
        Ok(Err(Asking::Running(cause))) => {
            Err(LoadCause::Describe(failure::explain(&cause, store.data())))
        }
        Err(_) => Err(LoadCause::DescribeTimedOut(deadline)),
    }
}
