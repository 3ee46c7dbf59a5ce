//! The catalogue of codes against the sources: what is used is explained, and
//! what is explained is used.
//!
//! Reads the sources as text. A code is a literal in a function `code`, in a
//! `Failure` or `Problem` that is made, or in a constant whose comment calls it
//! a code.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use cogo_host::codes;

use crate::support::process::Installation;

/// Looks like a code, and stands where codes stand, without being one.
const NOT_CODES: &[&str] = &["code", "error", "hint", "message"];

fn sources(directory: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            if !matches!(name, "tests" | "codes" | "target") {
                sources(&path, found);
            }
        } else if name.ends_with(".rs") && name != "tests.rs" && name != "codes.rs" {
            let text = std::fs::read_to_string(&path).unwrap();
            let production = text.split("#[cfg(test)]\nmod tests").next().unwrap();
            found.push((path, production.to_owned()));
        }
    }
}

/// The literals in a text that could be codes.
fn literals(text: &str) -> impl Iterator<Item = &str> {
    text.split('"').skip(1).step_by(2).filter(|literal| {
        let snake = literal.len() > 3
            && literal.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
            && !literal.starts_with('_');
        let plugin = literal.len() == 4
            && literal.starts_with('P')
            && literal[1..].bytes().all(|b| b.is_ascii_digit());
        (snake || plugin) && !NOT_CODES.contains(literal)
    })
}

/// From the first brace on to the one that closes it.
fn body(text: &str) -> &str {
    let Some(start) = text.find('{') else {
        return "";
    };
    let mut depth = 0_i32;
    for (at, c) in text[start..].char_indices() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if depth == 0 {
            return &text[start..start + at];
        }
    }
    &text[start..]
}

/// The codes that a source uses.
fn codes_of(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for after in text.split("fn code(").skip(1) {
        found.extend(literals(body(after)).map(str::to_owned));
    }
    // The code stands before the message, and messages have spaces.
    for made in [
        "Problem::new(",
        "Failure::new(",
        "Failure::message(",
        "host_fault(",
    ] {
        for after in text.split(made).skip(1) {
            let head: String = after.chars().take(120).collect();
            let head = head.split(';').next().unwrap();
            found.extend(literals(head).next().map(str::to_owned));
        }
    }
    for after in text.split("(Exit::").skip(1) {
        let head: String = after.chars().take(60).collect();
        let pair = head.split(')').next().unwrap();
        found.extend(literals(pair).map(str::to_owned));
    }
    for after in text.split("/// The code of ").skip(1) {
        let constant = after.split(';').next().unwrap();
        found.extend(literals(constant).map(str::to_owned));
    }
    for after in text.split("code: \"").skip(1) {
        let code = format!("\"{}\"", after.split('"').next().unwrap());
        found.extend(literals(&code).map(str::to_owned));
    }
    for after in text.split("retryable(\"").skip(1) {
        let code = format!("\"{}\"", after.split('"').next().unwrap());
        found.extend(literals(&code).map(str::to_owned));
    }
    found
}

#[test]
fn every_code_in_use_is_explained_and_every_explained_one_is_in_use() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut own = Vec::new();
    sources(&root.join("src"), &mut own);
    let mut used: BTreeMap<String, PathBuf> = BTreeMap::new();
    for (path, text) in &own {
        for code in codes_of(text) {
            used.entry(code).or_insert_with(|| path.clone());
        }
    }
    assert!(used.len() > 100, "the codes were not found: {used:?}");
    let unexplained: Vec<String> = used
        .iter()
        .filter(|(code, _)| codes::find(code).is_none())
        .map(|(code, path)| format!("`{code}` in {}", path.display()))
        .collect();
    assert!(
        unexplained.is_empty(),
        "no entry in src/codes/ for:\n{}",
        unexplained.join("\n")
    );
    // Codes of the bundled plugins are theirs.
    sources(&root.join("plugins/sdk/src"), &mut own);
    sources(&root.join("plugins/cogo-worker/src"), &mut own);
    for (_, entry) in codes::all() {
        let literal = format!("\"{}\"", entry.code);
        assert!(
            own.iter().any(|(_, text)| text.contains(&literal)),
            "nothing uses `{}` any more",
            entry.code
        );
    }
}

#[test]
fn a_code_is_explained_and_a_mistyped_one_is_guessed() {
    let here = Installation::new();
    let said = here.run(&["explain", "P120"]).expect(0).stdout;
    assert!(said.starts_with("P120: "), "{said}");
    assert!(said.contains("fix: "), "{said}");
    // As it stands in a message.
    let _ = here.run(&["explain", "error[plugin_trap]"]).expect(0);
    for (typed, meant) in [
        ("plugin_trp", "plugin_trap"),
        ("P12O", "P12"),
        ("ttl_exeeded", "ttl_exceeded"),
    ] {
        let said = here.run(&["explain", typed]).expect(4).stderr;
        assert!(said.contains(&format!("did you mean `{meant}")), "{said}");
    }
    let all = here.run(&["explain", "--json"]).expect(0).data();
    assert_eq!(all.as_array().unwrap().len(), codes::all().count());
}

#[test]
fn a_topic_is_a_page_on_a_format() {
    let here = Installation::new();
    for (topic, part) in [("golden-tasks", "$subset"), ("http-mock", "respond")] {
        let said = here.run(&["explain", topic]).expect(0).stdout;
        assert!(said.contains(part) && said.lines().count() <= 50, "{said}");
        let whole = here.run(&["explain"]).expect(0).stdout;
        assert!(whole.contains(topic), "{whole}");
    }
}

#[test]
fn explaining_needs_no_configuration_that_works() {
    let here = Installation::new();
    std::fs::write(here.path().join("cogo.toml"), "stage = \n").unwrap();
    let _ = here.run(&["explain", "config_invalid"]).expect(0);
}
