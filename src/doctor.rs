//! The examination of an installation: its bus, its files, its worker.
//!
//! **Invariant:** it changes nothing and needs no host. Each world has one door:
//! the bus examines itself ([`crate::store::Store::examine`]), so that no SQL is
//! here; files and the worker are looked at as a host would use them. To add a
//! check, name a [`Check`] and ask its question in the module of its world.

mod bus;
mod files;
mod worker;

use crate::config::Config;
use crate::finding::{Check, Finding, Severity};

pub use self::bus::CONNECTION;

const CONFIGURATION: Check = Check {
    id: "config.valid",
    title: "configuration",
    severity: Severity::Error,
    fix: "`cogo-host config show --origin` shows where each value comes from",
};

/// Examines everything that these settings lead to.
pub async fn examine(config: &Config) -> Vec<Finding> {
    let told = format!("valid; stage {}", config.stage);
    let mut findings = vec![CONFIGURATION.pass(told)];
    findings.extend(bus::examine(config).await);
    findings.push(files::plugins_dir(config));
    findings.push(files::cache_dir(config));
    findings.push(worker::reachable(config).await);
    findings
}
