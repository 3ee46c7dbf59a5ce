//! The shape of the sources: modules depend on each other in one direction, and
//! each outside world has one door.
//!
//! Reads the sources as text. A new arrow is a decision: it is made here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What each root module may name. Anything not listed is forbidden.
const ARROWS: &[(&str, &[&str])] = &[
    ("codes", &[]),
    ("expect", &[]),
    ("finding", &[]),
    ("ids", &[]),
    ("millis", &[]),
    ("packaging", &["ids"]),
    ("retry", &[]),
    ("stage", &[]),
    ("telemetry", &[]),
    ("route", &["ids"]),
    ("payload", &["route"]),
    ("report", &["route"]),
    ("selection", &["ids", "route", "stage"]),
    (
        "attempt",
        &["ids", "payload", "report", "route", "selection", "stage"],
    ),
    ("breaker", &["attempt", "ids", "millis", "route"]),
    ("gate", &["attempt", "ids", "route"]),
    ("rollout", &["event", "gate", "ids", "route", "selection"]),
    (
        "shadow",
        &[
            "attempt", "event", "gate", "ids", "report", "rollout", "route",
        ],
    ),
    (
        "task",
        &[
            "attempt",
            "breaker",
            "ids",
            "report",
            "retry",
            "route",
            "selection",
        ],
    ),
    (
        "event",
        &[
            "attempt",
            "ids",
            "millis",
            "route",
            "selection",
            "stage",
            "task",
        ],
    ),
    (
        "dispatch",
        &["attempt", "ids", "millis", "payload", "route", "task"],
    ),
    ("intake", &["ids", "payload", "route", "task"]),
    (
        "pipeline",
        &["attempt", "event", "gate", "ids", "intake", "route", "task"],
    ),
    (
        "routing",
        &[
            "attempt",
            "breaker",
            "ids",
            "rollout",
            "route",
            "selection",
            "task",
        ],
    ),
    (
        "control",
        &[
            "breaker",
            "event",
            "ids",
            "rollout",
            "route",
            "selection",
            "shadow",
        ],
    ),
    (
        "store",
        &[
            "attempt",
            "breaker",
            "control",
            "event",
            "finding",
            "gate",
            "ids",
            "millis",
            "payload",
            "pipeline",
            "retry",
            "rollout",
            "route",
            "selection",
            "shadow",
            "stage",
            "task",
        ],
    ),
    ("artifacts", &["attempt", "ids", "store"]),
    (
        "bus",
        &[
            "attempt",
            "breaker",
            "dispatch",
            "event",
            "ids",
            "millis",
            "payload",
            "report",
            "retry",
            "route",
            "routing",
            "selection",
            "shadow",
            "stage",
            "store",
            "task",
        ],
    ),
    (
        "config",
        &[
            "attempt", "breaker", "gate", "ids", "retry", "route", "stage", "store",
        ],
    ),
    (
        "trace",
        &[
            "attempt", "event", "gate", "ids", "route", "shadow", "store", "task",
        ],
    ),
    ("runs", &["event", "gate", "ids", "pipeline", "store"]),
    (
        "steering",
        &[
            "control",
            "gate",
            "ids",
            "rollout",
            "route",
            "selection",
            "shadow",
            "store",
        ],
    ),
    (
        "doctor",
        &[
            "api",
            "config",
            "finding",
            "ids",
            "packaging",
            "plugin",
            "route",
            "stage",
            "store",
        ],
    ),
    (
        "plugin",
        &[
            "artifacts",
            "attempt",
            "expect",
            "ids",
            "millis",
            "report",
            "route",
            "stage",
        ],
    ),
    (
        "trial",
        &[
            "artifacts",
            "attempt",
            "expect",
            "ids",
            "millis",
            "payload",
            "plugin",
            "report",
            "route",
        ],
    ),
    (
        "api",
        &[
            "artifacts",
            "attempt",
            "breaker",
            "bus",
            "codes",
            "control",
            "event",
            "gate",
            "ids",
            "intake",
            "millis",
            "payload",
            "pipeline",
            "plugin",
            "rollout",
            "route",
            "runs",
            "selection",
            "shadow",
            "stage",
            "steering",
            "store",
            "task",
            "trace",
        ],
    ),
    (
        "host",
        &[
            "api",
            "artifacts",
            "attempt",
            "breaker",
            "bus",
            "config",
            "control",
            "event",
            "gate",
            "ids",
            "millis",
            "pipeline",
            "plugin",
            "rollout",
            "route",
            "routing",
            "selection",
            "stage",
            "steering",
            "store",
            "task",
            "trace",
        ],
    ),
    (
        "cli",
        &[
            "api",
            "attempt",
            "breaker",
            "codes",
            "config",
            "control",
            "doctor",
            "event",
            "expect",
            "finding",
            "gate",
            "host",
            "ids",
            "intake",
            "millis",
            "packaging",
            "pipeline",
            "plugin",
            "rollout",
            "route",
            "runs",
            "selection",
            "shadow",
            "stage",
            "steering",
            "store",
            "task",
            "telemetry",
            "trace",
            "trial",
        ],
    ),
    ("main", &["cli"]),
];

/// Which root modules may name a crate.
const DOORS: &[(&str, &[&str])] = &[
    ("sqlx", &["store"]),
    ("wasmtime", &["plugin"]),
    ("wasmtime_wasi", &["plugin"]),
    ("wasmtime_wasi_http", &["plugin"]),
    ("axum", &["api"]),
    ("askama", &["api"]),
    ("clap", &["cli"]),
    ("regex_lite", &["expect"]),
    ("notify", &["plugin"]),
    ("object_store", &["artifacts"]),
    // What makes components of modules answers with it.
    ("anyhow", &["cli", "packaging"]),
    // A refused request prints the grant to paste.
    ("toml", &["config", "packaging", "plugin"]),
];

/// The modules that decide, and what they must not touch to stay testable in
/// microseconds.
const PURE: &[&str] = &[
    "ids",
    "millis",
    "route",
    "stage",
    "payload",
    "report",
    "retry",
    "selection",
    "breaker",
    "rollout",
    "shadow",
    "control",
    "dispatch",
    "gate",
    "task",
    "event",
    "intake",
    "pipeline",
    "routing",
    "finding",
    "expect",
    "codes",
];
const EFFECTS: &[&str] = &["tokio::", "std::fs", "std::net", "Instant::now", "Utc::now"];

/// Each source file with its root module and its text without tests and
/// comments.
fn sources() -> Vec<(PathBuf, String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut directories = vec![root.clone()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && path.file_stem().is_some_and(|stem| stem != "tests")
            {
                let module = path.strip_prefix(&root).unwrap();
                let module = module.components().next().unwrap().as_os_str();
                let module = module.to_str().unwrap().trim_end_matches(".rs").to_owned();
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path, module, code(&text)));
            }
        }
    }
    assert!(found.len() > 50, "the sources were not found");
    found
}

fn code(text: &str) -> String {
    let production = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    production
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The names that follow `prefix` in a text, such as `store` after `crate::`.
fn names_after<'a>(text: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(prefix).skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '_');
        &rest[..end.unwrap_or(rest.len())]
    })
}

#[test]
fn modules_depend_only_along_the_arrows() {
    let allowed: BTreeMap<&str, BTreeSet<&str>> = ARROWS
        .iter()
        .map(|(module, to)| (*module, to.iter().copied().collect()))
        .collect();
    let mut used: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, module, text) in sources() {
        if module == "lib" {
            continue;
        }
        let to = allowed
            .get(module.as_str())
            .unwrap_or_else(|| panic!("root module `{module}` has no line in the table"));
        for name in names_after(&text, "crate::").filter(|name| *name != module) {
            if allowed.contains_key(name) {
                assert!(to.contains(name), "{}: {module} -> {name}", path.display());
                used.entry(module.clone())
                    .or_default()
                    .insert(name.to_owned());
            }
        }
    }
    for (module, to) in &allowed {
        for name in to.iter().filter(|_| *module != "main") {
            let needed = used.get(*module).is_some_and(|used| used.contains(*name));
            assert!(
                needed,
                "nothing needs the arrow {module} -> {name} any more"
            );
        }
    }
}

#[test]
fn the_arrows_make_no_circle() {
    let mut left: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    while !left.is_empty() {
        let free: Vec<&str> = left
            .iter()
            .filter(|(_, to)| to.iter().all(|name| !left.contains_key(name)))
            .map(|(module, _)| *module)
            .collect();
        assert!(!free.is_empty(), "a circle among {:?}", left.keys());
        left.retain(|module, _| !free.contains(module));
    }
}

#[test]
fn each_outside_world_has_one_door() {
    for (path, module, text) in sources() {
        for (world, doors) in DOORS {
            // Not where it ends a longer name or path.
            let named = text.match_indices(&format!("{world}::")).any(|(at, _)| {
                !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')
            });
            assert!(
                !named || doors.contains(&module.as_str()),
                "{} names {world}; only {doors:?} may",
                path.display()
            );
        }
    }
}

#[test]
fn what_decides_has_no_effects() {
    for (path, module, text) in sources() {
        for effect in EFFECTS.iter().filter(|_| PURE.contains(&module.as_str())) {
            assert!(!text.contains(effect), "{} uses {effect}", path.display());
        }
    }
}
