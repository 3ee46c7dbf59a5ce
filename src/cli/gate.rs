//! `gate`: judges a trace or a window, for people, CI and reports.

use clap::{Args, ValueEnum};
use serde_json::json;

use super::Context;
use super::connection::Connection;
use super::junit::{self, Case, CaseResult, Suite};
use super::output::{Exit, Outcome};
use crate::config::Config;
use crate::gate::{Check, GateReport, Scope, Verdict};
use crate::ids::TraceId;
use crate::route::{Policy, RouteKey};
use crate::stage::Stage;
use crate::trace::{self, Judging};

#[derive(Args)]
pub struct GateArgs {
    /// Judge one trace.
    #[arg(long, conflicts_with = "window_min")]
    trace: Option<TraceId>,
    /// Judge what ended in the last minutes; the default is WINDOW_MIN.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=527_040))]
    window_min: Option<u32>,
    /// Results of required routes must come from the real executor. Always so
    /// in staging, in production and with CI=true.
    #[arg(long)]
    require_real: bool,
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
    Junit,
    Markdown,
}

pub async fn gate(context: Context, args: GateArgs) -> Outcome {
    let config = context.config()?;
    let scope = match args.trace {
        Some(trace) => Scope::Trace(trace),
        None => Scope::Window {
            minutes: args.window_min.unwrap_or(config.gate.window_min),
        },
    };
    let require_real = requires_real(&config, args.require_real);
    let connection = Connection::read(&config).await?;
    let policy = |route: &_| config.policy(route);
    let judging = judging(&config, &policy, require_real);
    let report = trace::judge(&*connection.store, &scope, &judging).await?;
    let data = json!({ "scope": described(&scope), "report": report });
    let mut output = context.output;
    output.json |= args.format == Format::Json;
    output.answer("gate", &data, || match args.format {
        Format::Table | Format::Json => table(&report, &scope),
        Format::Junit => junit(&report, &scope),
        Format::Markdown => markdown(&report, &scope),
    })?;
    Ok(exit(report.verdict))
}

/// How the configuration has gates judge.
pub fn judging<'a>(
    config: &'a Config,
    policy: &'a (dyn Fn(&RouteKey) -> Policy + Send + Sync),
    require_real: bool,
) -> Judging<'a> {
    Judging {
        thresholds: &config.gate.thresholds,
        require_real,
        policy,
    }
}

/// Whether results must be real: where asked, in CI, and beyond development.
pub fn requires_real(config: &Config, asked: bool) -> bool {
    asked || config.ci || config.stage != Stage::Development
}

pub const fn exit(verdict: Verdict) -> Exit {
    match verdict {
        Verdict::Pass => Exit::Ok,
        Verdict::Fail => Exit::Negative,
        Verdict::Inconclusive => Exit::Inconclusive,
    }
}

fn described(scope: &Scope) -> String {
    match scope {
        Scope::Trace(trace) => format!("trace {trace}"),
        Scope::Window { minutes } => format!("the last {minutes} minutes"),
    }
}

/// The verdict first, then each check with value, threshold and sample size.
pub fn table(report: &GateReport, scope: &Scope) -> String {
    let rows = report.checks.iter().map(|check| {
        [
            format!("  {} {}", check.verdict.mark(), check.name),
            check.verdict.to_string(),
            check.shown_value(),
            check.shown_threshold(),
            format!("n={}", check.n),
            check.note.clone().unwrap_or_default(),
        ]
    });
    format!(
        "gate over {}: {}\n{}",
        described(scope),
        report.verdict,
        super::table::columns(rows)
    )
}

/// A check in one line, for those who need no columns.
pub fn line(check: &Check) -> String {
    let note = check.note.as_deref().map(|note| format!("  {note}"));
    format!(
        "{} {:<24} {} ({})  n={}{}",
        check.verdict.mark(),
        check.name,
        check.shown_value(),
        check.shown_threshold(),
        check.n,
        note.unwrap_or_default()
    )
}

pub const fn mark(verdict: Verdict) -> &'static str {
    verdict.mark()
}

fn markdown(report: &GateReport, scope: &Scope) -> String {
    let mut text = format!("**Gate over {}: {}**\n\n", described(scope), report.verdict);
    text += "| check | verdict | value | threshold | n | note |\n| --- | --- | ---: | ---: | ---: | --- |\n";
    for check in &report.checks {
        text += &format!(
            "| {} | {} {} | {} | {} | {} | {} |\n",
            check.name,
            check.verdict.mark(),
            check.verdict,
            check.shown_value(),
            check.shown_threshold(),
            check.n,
            check.note.as_deref().unwrap_or_default(),
        );
    }
    text
}

/// One suite, one case a check; an inconclusive check is an error, since no
/// data never passes.
fn junit(report: &GateReport, scope: &Scope) -> String {
    let case = |check: &Check| {
        let said = format!(
            "{} {}, n={}; {}",
            check.shown_value(),
            check.shown_threshold(),
            check.n,
            check.note.as_deref().unwrap_or_default()
        );
        Case {
            name: check.name.to_string(),
            seconds: 0.0,
            result: match check.verdict {
                Verdict::Pass => CaseResult::Pass,
                Verdict::Fail => CaseResult::Failure(said),
                Verdict::Inconclusive => CaseResult::Error(said),
            },
        }
    };
    let gate = Suite {
        name: "gate",
        properties: vec![
            ("scope", described(scope)),
            ("verdict", report.verdict.to_string()),
        ],
        cases: report.checks.iter().map(case).collect(),
    };
    junit::report(&junit::Run::here(), &[gate])
}
