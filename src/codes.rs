//! Every code that a failure may carry, with what it means, what causes it and
//! what mends it: the data behind `cogo-host explain CODE`.
//!
//! Codes are stable: scripts, events, attempt rows and API answers hold them. A
//! code that is used somewhere and not listed here, or listed and used nowhere,
//! fails a test. A plugin may fail with codes of its own, which only its author
//! can explain; those of the bundled ones are listed.
//!
//! Pure data: nothing here knows where a code comes from.

use serde::Serialize;

mod api;
mod attempt;
mod command;
mod plugin;

/// What there is to know of a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Entry {
    pub code: &'static str,
    /// What it says.
    pub meaning: &'static str,
    /// How it comes about.
    pub cause: &'static str,
    /// What to do.
    pub fix: &'static str,
}

/// Where codes appear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Area {
    /// A component that is not loaded.
    Plugin,
    /// An attempt that ended without a result, and the task's `error`.
    Attempt,
    /// A request that the HTTP API refuses; commands that go through it, too.
    Api,
    /// A command that cannot do what it was asked.
    Command,
}

impl Area {
    pub const ALL: [Self; 4] = [Self::Plugin, Self::Attempt, Self::Api, Self::Command];

    pub const fn title(self) -> &'static str {
        match self {
            Self::Plugin => "plugins that are not loaded",
            Self::Attempt => "attempts and tasks that failed",
            Self::Api => "requests that the API refuses",
            Self::Command => "commands that cannot be done",
        }
    }

    pub const fn entries(self) -> &'static [Entry] {
        match self {
            Self::Plugin => plugin::ENTRIES,
            Self::Attempt => attempt::ENTRIES,
            Self::Api => api::ENTRIES,
            Self::Command => command::ENTRIES,
        }
    }
}

/// All entries with their areas.
pub fn all() -> impl Iterator<Item = (Area, &'static Entry)> {
    Area::ALL
        .into_iter()
        .flat_map(|area| area.entries().iter().map(move |entry| (area, entry)))
}

/// The entry of a code, whatever its case.
pub fn find(code: &str) -> Option<(Area, &'static Entry)> {
    all().find(|(_, entry)| entry.code.eq_ignore_ascii_case(code))
}

const fn entry(
    code: &'static str,
    meaning: &'static str,
    cause: &'static str,
    fix: &'static str,
) -> Entry {
    Entry {
        code,
        meaning,
        cause,
        fix,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_code_is_explained_once_and_wholly() {
        let mut seen = BTreeSet::new();
        for (_, entry) in all() {
            assert!(seen.insert(entry.code), "{} is listed twice", entry.code);
            for text in [entry.meaning, entry.cause, entry.fix] {
                assert!(text.len() > 8, "{}", entry.code);
                assert!(!text.ends_with('.'), "{}: {text}", entry.code);
            }
        }
        assert_eq!(find("p120").unwrap().1.code, "P120");
        assert!(find("P999").is_none());
    }
}
