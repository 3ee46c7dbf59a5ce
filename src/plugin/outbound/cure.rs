//! What can be done about a request that the policy refused, as a line to paste:
//! the operator's grant, and what the plugin's own list lacks besides.

use super::{GrantsFrom, Outlet};
use crate::plugin::egress::{Origin, Refusal, Undeclared, toml_string};

/// What the operator or the plugin's author can do about a refusal.
pub(super) fn of(refusal: &Refusal, outlet: &Outlet) -> String {
    match refusal {
        Refusal::NotGranted(origin) | Refusal::Private(origin) => {
            let grant = grant(origin, outlet);
            match declaration(origin, outlet) {
                Some(declaration) => format!("{grant}\nand {declaration}"),
                None => grant,
            }
        }
        Refusal::NotDeclared(origin) => match declaration(origin, outlet) {
            Some(declaration) => format!("to allow it, {declaration}"),
            None => String::new(),
        },
        Refusal::Never(_) => "such addresses hand out credentials; no grant opens them".into(),
        Refusal::Origin(_) => "plugins may call `http` and `https` URLs without a user name".into(),
    }
}

fn grant(origin: &Origin, outlet: &Outlet) -> String {
    match outlet.grants_from {
        GrantsFrom::CommandLine => format!("to allow it, add --allow-host {origin}"),
        GrantsFrom::Configuration => format!(
            "to allow it, put this into cogo.toml:\n[plugin.{}]\nallow = {}",
            outlet.plugin,
            outlet.policy.with_grant(origin)
        ),
    }
}

/// What the plugin's own list lacks. A key without a value is the operator's
/// affair, an origin that is not named its author's.
fn declaration(origin: &Origin, outlet: &Outlet) -> Option<String> {
    let keys = match outlet.policy.undeclared(origin)? {
        Undeclared::Unset(keys) => keys,
        Undeclared::Missing => {
            let origin = toml_string(&origin.to_string());
            return Some(format!(
                "the plugin's author adds {origin} to `egress` in its descriptor"
            ));
        }
    };
    let set = match outlet.grants_from {
        GrantsFrom::CommandLine => format!("add --config {}={origin}", keys.join("|")),
        GrantsFrom::Configuration => format!(
            "set {} in `[plugin.{}] config` to {origin}",
            keys.join(" or "),
            outlet.plugin
        ),
    };
    Some(format!("{set}: the plugin calls what it names"))
}
