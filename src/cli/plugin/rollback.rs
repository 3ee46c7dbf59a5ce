//! `plugin rollback`: only a running host has versions to go back to.

use serde_json::json;

use super::super::Context;
use super::super::connection::host_of;
use super::super::output::{Exit, Failure, Outcome};
use crate::api::RollbackView;
use crate::ids::PluginName;
use crate::plugin::catalog::DigestPrefix;

pub async fn roll_back(
    context: Context,
    name: PluginName,
    to: Option<DigestPrefix>,
    reason: Option<String>,
) -> Outcome {
    let config = context.config()?;
    let Some(host) = host_of(&config)? else {
        let problem = "no host runs on this bus, so that nothing serves";
        return Err(Failure::message(Exit::Unavailable, "no_host", problem)
            .hint("a host that starts loads what lies in COGO_PLUGINS_DIR: put the right version there"));
    };
    let to = to.map(|to| to.to_string());
    let order = json!({ "to": to, "reason": reason });
    let path = format!("/api/plugins/{name}/rollback");
    let done: RollbackView = host.post(&path, &order).await?;
    context.output.answer("plugin-rollback", &done, || {
        format!(
            "{name} serves as {} ({}) again\nit stays so until its file changes; `cogo-host trace {}` shows who and why",
            done.to.version, done.to.digest, done.trace_id
        )
    })?;
    Ok(Exit::Ok)
}
