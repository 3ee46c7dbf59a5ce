//! `doctor`: examines an installation and says what to mend.

use clap::Args;
use comfy_table::{Table, presets};
use serde_json::json;

use super::Context;
use super::output::{Exit, Outcome};
use crate::doctor::{self, CONNECTION};
use crate::finding::{self, Finding, State};

#[derive(Args)]
pub struct DoctorArgs {}

pub async fn doctor(context: Context, _: DoctorArgs) -> Outcome {
    let config = context.config()?;
    let findings = doctor::examine(&config).await;
    let worst = finding::worst(&findings);
    let data = json!({ "state": worst, "checks": findings });
    context
        .output
        .answer("doctor", &data, || table(&findings))?;
    let unreachable =
        |finding: &Finding| finding.check.id == CONNECTION.id && finding.state == State::Fail;
    Ok(match worst {
        State::Fail if findings.iter().any(unreachable) => Exit::Unavailable,
        State::Fail => Exit::Negative,
        State::Pass | State::Warn | State::Unknown => Exit::Ok,
    })
}

fn table(findings: &[Finding]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["CHECK", "STATE", "SEEN", "FIX"]);
    for finding in findings {
        let fix = match finding.state {
            State::Warn | State::Fail => finding.check.fix,
            State::Pass | State::Unknown => "",
        };
        table.add_row([
            finding.check.title,
            finding.state.as_str(),
            &finding.detail,
            fix,
        ]);
    }
    table.trim_fmt()
}
