//! A component's outline against the world, as WIT with what is missing and
//! what is too much, and what its imports of WASI are for.

use serde::Serialize;

use super::{Difference, EXPORTS, Outline, VERSION, fits, interface, offered};
use crate::plugin::wasi::Profile;

/// An import of WASI's that is linked and leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stray {
    pub import: String,
    /// What usually brings it along.
    pub from: &'static str,
    /// What a plugin meets there.
    pub meets: &'static str,
    pub cure: &'static str,
}

const TARGET: &str =
    "a Rust plugin does without: `cogo-host plugin build` builds for wasm32-unknown-unknown";
const HTTP: &str = "call out over `wasi:http/outgoing-handler`, as the example plugins do";

impl Outline {
    /// The world as this component has it: a line with `-` is missing, a line
    /// with `+` is too much.
    pub fn against_world(&self) -> String {
        let mut lines = vec!["world executor-plugin {".to_owned()];
        for import in &self.imports {
            lines.push(match offered(import) {
                Ok(_) => format!("    import {import};"),
                Err(Difference::OtherVersion(_)) => {
                    let name = interface(import);
                    format!("-   import {name}@{VERSION};\n+   import {import};")
                }
                Err(Difference::OtherImportVersion(_)) => {
                    format!(
                        "-   import {}@0.2.x;\n+   import {import};",
                        interface(import)
                    )
                }
                Err(_) => format!("+   import {import};"),
            });
        }
        for wanted in EXPORTS {
            match self.exports.iter().find(|name| interface(name) == wanted) {
                Some(found) if fits(found, &VERSION) => lines.push(format!("    export {found};")),
                Some(found) => {
                    lines.push(format!(
                        "-   export {wanted}@{VERSION};\n+   export {found};"
                    ));
                }
                None => lines.push(format!("-   export {wanted}@{VERSION};")),
            }
        }
        let foreign = self.foreign_exports().into_iter();
        lines.extend(foreign.map(|name| format!("+   export {name};")));
        lines.push("}".to_owned());
        lines.join("\n")
    }

    /// What it exports besides the interfaces of the world. The host never calls
    /// it.
    pub fn foreign_exports(&self) -> Vec<String> {
        let exports = self.exports.iter();
        // A name without a package is no interface: what a tool left for itself,
        // as the one for Python does.
        let interfaces = exports.filter(|name| name.contains(':'));
        let foreign = interfaces.filter(|name| !EXPORTS.contains(&interface(name)));
        foreign.cloned().collect()
    }

    /// The imports that only the wider profile has, with what is to be known of
    /// them.
    pub fn strays(&self) -> Vec<Stray> {
        let imports = self.imports.iter();
        let wide = imports.filter(|import| offered(import) == Ok(Profile::Wasi));
        wide.map(|import| stray(import)).collect()
    }
}

fn stray(import: &str) -> Stray {
    let name = interface(import);
    let package = name.split_once('/').map_or(name, |(package, _)| package);
    let (from, meets, cure) = match (package, name) {
        ("wasi:filesystem", _) => (
            "std::fs, or an interpreter's library",
            "no directory is open, so every file is absent",
            "take input from the payload, store output with `store-artifact`",
        ),
        ("wasi:sockets", _) => (
            "std::net, or a client that opens sockets itself",
            "every connection is refused",
            HTTP,
        ),
        ("wasi:random", _) => (
            "HashMap, uuid, or an interpreter's start",
            "random numbers, which make results hard to repeat",
            TARGET,
        ),
        (_, "wasi:cli/environment") => (
            "std::env, or the start of a language's runtime",
            "no variable and no argument is set",
            "read values with `host.config`",
        ),
        (_, "wasi:cli/exit") => (
            "std::process::exit, or a language's runtime",
            "an exit is a trap",
            "return a failure instead",
        ),
        (_, "wasi:cli/stdout" | "wasi:cli/stderr") => (
            "println!, print, console.log",
            "what is written goes into the attempt's log",
            "log with `host.log`, which has levels",
        ),
        _ => (
            "the start of a language's runtime",
            "nothing is behind it",
            TARGET,
        ),
    };
    Stray {
        import: import.to_owned(),
        from,
        meets,
        cure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outline(imports: &[&str], exports: &[&str]) -> Outline {
        Outline {
            imports: imports.iter().map(|n| (*n).to_owned()).collect(),
            exports: exports.iter().map(|n| (*n).to_owned()).collect(),
            source_digest: None,
        }
    }

    #[test]
    fn the_world_is_shown_with_what_is_missing_and_what_is_too_much() {
        let outline = outline(
            &[
                "cogo:executor/host@0.2.0",
                "wasi:http/types@0.3.0",
                "wasi:io/poll@0.2.3",
                "acme:billing/charge",
            ],
            &["cogo:executor/plugin@0.1.0", "acme:extra/api@1.0.0"],
        );
        assert_eq!(
            outline.against_world(),
            "world executor-plugin {\n\
             -   import cogo:executor/host@0.1.0;\n\
             +   import cogo:executor/host@0.2.0;\n\
             -   import wasi:http/types@0.2.x;\n\
             +   import wasi:http/types@0.3.0;\n\
             \x20   import wasi:io/poll@0.2.3;\n\
             +   import acme:billing/charge;\n\
             \x20   export cogo:executor/plugin@0.1.0;\n\
             -   export cogo:executor/executor@0.1.0;\n\
             +   export acme:extra/api@1.0.0;\n\
             }"
        );
    }

    #[test]
    fn an_import_that_leads_nowhere_says_so() {
        let outline = outline(&["wasi:filesystem/types@0.2.6", "wasi:io/poll@0.2.6"], &[]);
        let strays = outline.strays();
        assert_eq!(strays.len(), 1);
        assert!(strays[0].from.contains("std::fs"));
    }
}
