//! Whether plugins can be built here. A host needs none of it, so what is
//! missing is no fault.

use crate::finding::{Check, Finding, Severity};
use crate::packaging::{Language, toolchain};

const RUST: Check = check("toolchain.rust", "plugins in Rust");
const JAVASCRIPT: Check = check("toolchain.javascript", "plugins in JavaScript");
const PYTHON: Check = check("toolchain.python", "plugins in Python");

const fn check(id: &'static str, title: &'static str) -> Check {
    Check {
        id,
        title,
        severity: Severity::Warning,
        fix: "install what is named, to write plugins in it",
    }
}

pub(super) fn examine() -> Vec<Finding> {
    [
        (RUST, Language::Rust),
        (JAVASCRIPT, Language::JavaScript),
        (PYTHON, Language::Python),
    ]
    .into_iter()
    .map(|(check, language)| match toolchain::of_machine(language) {
        Ok(found) => check.pass(found),
        Err(missing) => check.unknown(format!("{missing}; to build them: {}", missing.cure())),
    })
    .collect()
}
