//! `flag list|set`: whether the real executor of a route runs.

use std::collections::BTreeSet;
use std::str::FromStr;

use clap::Subcommand;
use serde::Serialize;

use super::connection::Connection;
use super::output::{Exit, Outcome};
use super::{Context, table};
use crate::config::Config;
use crate::control::{Controls, FlagRow, Reason};
use crate::route::{KnownRole, Policy, RouteKey};

#[derive(Subcommand)]
pub enum FlagCommand {
    /// List the flags of all routes: as configured, and as set on the bus.
    List,
    /// Set the flag of a route on the bus, for every host at once.
    Set {
        /// Which route, as `service/role`.
        route: RouteKey,
        /// `on` runs the real executor, `off` the mock; `default` leaves it to
        /// configuration and stage again.
        value: FlagValue,
        /// Why; recorded with your name.
        #[arg(long, value_name = "TEXT")]
        reason: Option<Reason>,
    },
}

/// What a flag may be set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlagValue {
    On,
    Off,
    Default,
}

impl FromStr for FlagValue {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "on" | "true" => Ok(Self::On),
            "off" | "false" => Ok(Self::Off),
            "default" => Ok(Self::Default),
            _ => Err("expected `on`, `off` or `default`".to_owned()),
        }
    }
}

impl FlagValue {
    const fn enabled(self) -> Option<bool> {
        match self {
            Self::On => Some(true),
            Self::Off => Some(false),
            Self::Default => None,
        }
    }
}

/// The flag of one route.
#[derive(Serialize)]
struct Listed {
    route: RouteKey,
    policy: Policy,
    /// As this configuration has it; what is set on the bus beats it.
    configured: Option<bool>,
    set: Option<FlagRow>,
}

pub async fn flag(context: Context, command: FlagCommand) -> Outcome {
    let config = context.config()?;
    match command {
        FlagCommand::List => {
            let connection = Connection::read(&config).await?;
            let flags = listed(&config, connection.store.controls().await?);
            context
                .output
                .answer("flag-list", &flags, || listing(&flags))?;
        }
        FlagCommand::Set {
            route,
            value,
            reason,
        } => {
            let connection = Connection::write(&config).await?;
            let enabled = value.enabled();
            let done = connection
                .set_flag(&config, &route, enabled, reason)
                .await?;
            context.output.answer("flag-set", &done, || {
                let to = match enabled {
                    Some(true) => "on",
                    Some(false) => "off",
                    None => "left to configuration and stage",
                };
                match &done.trace_id {
                    Some(trace) => format!(
                        "the flag of {route} is {to} on every host; `cogo-host trace {trace}` shows who and why"
                    ),
                    None => format!("the flag of {route} was {to} before"),
                }
            })?;
        }
    }
    Ok(Exit::Ok)
}

fn listed(config: &Config, mut controls: Controls) -> Vec<Listed> {
    let known = KnownRole::ALL.into_iter().map(KnownRole::key);
    let configured = config.routes.keys().cloned();
    let set = controls.flags.keys().cloned();
    let all: BTreeSet<RouteKey> = known.chain(configured).chain(set).collect();
    let listed = all.into_iter().map(|route| {
        let policy = config.policy(&route);
        let own = config.routes.get(&route).and_then(|route| route.flag);
        Listed {
            set: controls.flags.remove(&route),
            configured: own.or(match policy {
                Policy::Required => config.flag.value,
                Policy::Optional => None,
            }),
            policy,
            route,
        }
    });
    listed.collect()
}

fn listing(flags: &[Listed]) -> String {
    let header = ["ROUTE", "POLICY", "CONFIGURED", "ON THE BUS", "BY", "WHY"];
    let shown = |flag: Option<bool>| match flag {
        Some(true) => "on",
        Some(false) => "off",
        None => "-",
    };
    let rows = flags.iter().map(|flag| {
        let set = flag.set.as_ref();
        [
            flag.route.to_string(),
            format!("{:?}", flag.policy).to_lowercase(),
            shown(flag.configured).to_owned(),
            shown(set.map(|set| set.enabled)).to_owned(),
            set.map(|set| set.actor.clone()).unwrap_or_default(),
            set.and_then(|set| set.reason.clone()).unwrap_or_default(),
        ]
    });
    table::table(header, rows)
}
