//! `explain`: what a code means and what mends it, without a network, a
//! configuration or a bus.

use std::fmt::Write as _;

use clap::Args;
use serde::Serialize;

mod topics;

use super::output::{Exit, Failure, Outcome, Output};
use crate::codes::{self, Area, Entry};
use crate::config::nearest;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  cogo-host explain P120\n  cogo-host explain plugin_trap\n  cogo-host explain --json"
)]
pub struct ExplainArgs {
    /// The code in an error's brackets, or a topic; without one, all are listed.
    code: Option<String>,
}

#[derive(Serialize)]
struct Explained {
    area: Area,
    #[serde(flatten)]
    entry: &'static Entry,
}

pub fn explain(output: Output, args: &ExplainArgs) -> Outcome {
    match &args.code {
        None => list(output),
        Some(code) => one(output, code),
    }
}

/// A format and its description.
#[derive(Serialize)]
struct Topic {
    topic: &'static str,
    text: &'static str,
}

fn list(output: Output) -> Outcome {
    let all: Vec<Explained> = codes::all()
        .map(|(area, entry)| Explained { area, entry })
        .collect();
    output.answer("explain-list", &all, || {
        let mut text = String::new();
        for area in Area::ALL {
            let _ = writeln!(text, "{}", area.title());
            for entry in area.entries() {
                let _ = writeln!(text, "  {:26} {}", entry.code, entry.meaning);
            }
        }
        text += "topics\n";
        for (name, about, _) in topics::ALL {
            let _ = writeln!(text, "  {name:26} {about}");
        }
        text
    })?;
    Ok(Exit::Ok)
}

fn one(output: Output, code: &str) -> Outcome {
    let wanted = code.trim_start_matches("error[").trim_end_matches(']');
    if let Some((topic, _, text)) = topics::ALL.iter().find(|(name, ..)| *name == wanted) {
        output.answer("explain-topic", &Topic { topic, text }, || {
            (*text).to_owned()
        })?;
        return Ok(Exit::Ok);
    }
    let Some((area, entry)) = codes::find(wanted) else {
        return Err(unknown(wanted));
    };
    let explained = Explained { area, entry };
    output.answer("explain", &explained, || {
        format!(
            "{}: {}\n cause: {}\n   fix: {}",
            entry.code, entry.meaning, entry.cause, entry.fix
        )
    })?;
    Ok(Exit::Ok)
}

fn unknown(code: &str) -> Failure {
    let failure = Failure::message(
        Exit::NotFound,
        "code_unknown",
        format!("`{code}` is no code of cogo-host"),
    );
    // Codes of plugins have capitals, which likeness does not see.
    let upper = code.to_uppercase();
    let topics = || topics::ALL.iter().map(|(name, ..)| *name);
    let known = || codes::all().map(|(_, entry)| entry.code).chain(topics());
    let prefix = known().find(|known| upper.len() > 2 && known.starts_with(&upper));
    let like = nearest(code, known());
    let near_number = known()
        .filter(|known| known.starts_with('P') && upper.starts_with('P'))
        .min_by_key(|known| strsim::levenshtein(known, &upper));
    match prefix.or(like).or(near_number) {
        Some(near) => failure.hint(format!("did you mean `{near}`?")),
        None => failure.hint(
            "`cogo-host explain` lists all codes; a plugin's own are explained by its author",
        ),
    }
}
