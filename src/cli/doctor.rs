//! `doctor`: examines an installation, says what to mend, and mends what needs
//! no decision.

use std::io::{IsTerminal as _, Write as _};

use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::output::{Exit, Outcome, Output};
use super::{Context, table};
use crate::config::Config;
use crate::doctor::{self, CONNECTION};
use crate::finding::{self, Finding, Remedy, State};

#[derive(Args)]
#[command(
    after_help = "Examples:\n  cogo-host doctor\n  cogo-host doctor --fix          shows what it would do, and asks\n  cogo-host doctor --fix --yes    does it"
)]
pub struct DoctorArgs {
    /// Mend what can be mended without a decision; shows first what that is.
    #[arg(long)]
    fix: bool,
    /// Do not ask before mending.
    #[arg(long, requires = "fix")]
    yes: bool,
}

/// Something that was mended, or would be.
#[derive(Serialize)]
struct Mended {
    check: &'static str,
    remedy: String,
    done: bool,
    error: Option<String>,
}

pub async fn doctor(context: Context, args: DoctorArgs) -> Outcome {
    let config = context.config()?;
    let output = context.output;
    let mut findings = doctor::examine(&config).await;
    let remedies = remedies(&findings);
    let mut mended = Vec::new();
    if args.fix {
        let go = args.yes || agreed(output, &remedies);
        for (check, remedy) in &remedies {
            mended.push(mend(&config, check, remedy, go).await);
        }
        tell(output, &mended, go);
        if go && !mended.is_empty() {
            findings = doctor::examine(&config).await;
        }
    }
    let worst = finding::worst(&findings);
    let data = json!({ "state": worst, "checks": findings, "mended": mended });
    output.answer("doctor", &data, || listing(&findings))?;
    if !args.fix && !remedies.is_empty() {
        output.note(format_args!(
            "{} of these can be mended: cogo-host doctor --fix",
            remedies.len()
        ));
    }
    let unreachable =
        |finding: &Finding| finding.check.id == CONNECTION.id && finding.state == State::Fail;
    Ok(match worst {
        State::Fail if findings.iter().any(unreachable) => Exit::Unavailable,
        State::Fail => Exit::Negative,
        State::Pass | State::Warn | State::Unknown => Exit::Ok,
    })
}

fn remedies(findings: &[Finding]) -> Vec<(&'static str, Remedy)> {
    let with = findings.iter();
    with.filter_map(|finding| Some((finding.check.id, finding.remedy.clone()?)))
        .collect()
}

/// Asks whoever sits there; a script says `--yes`.
fn agreed(output: Output, remedies: &[(&'static str, Remedy)]) -> bool {
    let asks = !output.json && !remedies.is_empty() && std::io::stdin().is_terminal();
    if !asks {
        return false;
    }
    let mut stderr = std::io::stderr().lock();
    for (check, remedy) in remedies {
        let _ = writeln!(stderr, "{check}: would {remedy}");
    }
    let _ = write!(stderr, "do it? [y/N] ");
    let _ = stderr.flush();
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

async fn mend(config: &Config, check: &'static str, remedy: &Remedy, go: bool) -> Mended {
    let error = match go {
        true => doctor::mend(config, remedy).await.err(),
        false => None,
    };
    let error = error.map(|error| format!("{:#}", anyhow::Error::new(error)));
    Mended {
        check,
        remedy: remedy.to_string(),
        done: go && error.is_none(),
        error,
    }
}

fn tell(output: Output, mended: &[Mended], went: bool) {
    if mended.is_empty() {
        output.note("nothing here can be mended without a decision");
    }
    for Mended {
        check,
        remedy,
        done,
        error,
    } in mended
    {
        match (done, error) {
            (true, _) => output.note(format_args!("{check}: did {remedy}")),
            (false, Some(error)) => {
                output.note(format_args!("{check}: could not {remedy}: {error}"));
            }
            (false, None) => output.note(format_args!("{check}: would {remedy}")),
        }
    }
    if !went && !mended.is_empty() {
        output.note("nothing was changed; `cogo-host doctor --fix --yes` does it");
    }
}

fn listing(findings: &[Finding]) -> String {
    let rows = findings.iter().map(|finding| {
        let fix = match finding.state {
            State::Warn | State::Fail => finding.check.fix,
            State::Pass | State::Unknown => "",
        };
        [
            finding.check.title,
            finding.state.as_str(),
            &finding.detail,
            fix,
        ]
        .map(str::to_owned)
    });
    table::table(["CHECK", "STATE", "SEEN", "FIX"], rows)
}
