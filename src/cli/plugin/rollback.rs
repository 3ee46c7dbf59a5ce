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
    let Some(host) = host_of(&config).await? else {
        let problem = "no host runs on this bus, so that nothing serves";
        return Err(Failure::message(Exit::Unavailable, "no_host", problem)
            .hint("a host that starts loads what lies in COGO_PLUGINS_DIR: put the right version there"));
    };
    let to = to.map(|to| to.to_string());
    let order = json!({ "to": to, "reason": reason });
    let path = format!("/api/plugins/{name}/rollback");
    let done: RollbackView = host.post(&path, &order).await?;
    context.output.answer("plugin-rollback", &done, || {
        let mut lines = format!(
            "{name} serves as {} ({}) again",
            done.to.version, done.to.digest
        );
        if let Some(trace) = &done.trace_id {
            lines +=
                &format!("\n`cogo-host trace {trace}` shows who, why, and each host that follows");
        }
        lines
    })?;
    if let Some(problem) = &done.problem {
        let problem = format!("only the host that was asked went back: {problem}");
        return Err(
            Failure::message(Exit::Unavailable, "not_everywhere", problem)
                .hint("run the command again once the database answers"),
        );
    }
    Ok(Exit::Ok)
}
