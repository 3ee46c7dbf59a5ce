//! The examination of an installation: its bus, its files, its plugins, its API,
//! its worker, the machine.
//!
//! **Invariant:** examining changes nothing and needs no host. Each world has one
//! door: the bus examines itself ([`crate::store::Store::examine`]), so that no SQL
//! is here; the rest is looked at as a host would use it. To add a check, name a
//! [`Check`] and ask its question in the module of its world. What a finding's
//! remedy says is done by [`mend`] alone.

mod access;
mod bus;
mod files;
mod machine;
mod mend;
mod plugins;
mod toolchains;
mod worker;

use crate::config::Config;
use crate::finding::{Check, Finding, Severity};

pub use self::bus::CONNECTION;
pub use self::mend::{MendError, mend};

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
    findings.extend(files::examine(config));
    findings.extend(plugins::examine(config));
    findings.extend(access::examine(config));
    findings.push(worker::reachable(config).await);
    findings.extend(machine::examine());
    findings.extend(toolchains::examine());
    findings
}
