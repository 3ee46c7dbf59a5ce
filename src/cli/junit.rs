//! JUnit XML, as continuous integration reads it: the layout of Ant, whose schema
//! is the strictest of those in use. Every suite has its time, its machine and
//! its properties, every case its time, every failure its type.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};

/// When and where suites were run.
pub struct Run {
    pub at: DateTime<Utc>,
    pub machine: String,
}

/// A suite of cases.
pub struct Suite<'a> {
    pub name: &'a str,
    /// What was judged, such as the digest of a component.
    pub properties: Vec<(&'a str, String)>,
    pub cases: Vec<Case>,
}

/// One case and how it came out.
pub struct Case {
    pub name: String,
    /// In seconds; nothing where there is nothing to measure.
    pub seconds: f64,
    pub result: CaseResult,
}

pub enum CaseResult {
    Pass,
    Failure(String),
    /// It could not be told.
    Error(String),
}

impl Run {
    /// Of this moment on this machine.
    pub fn here() -> Self {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
        let name = name.unwrap_or_default().trim().to_owned();
        Self {
            at: Utc::now(),
            machine: match name.is_empty() {
                true => "localhost".to_owned(),
                false => name,
            },
        }
    }
}

/// The report of all suites.
pub fn report(run: &Run, suites: &[Suite<'_>]) -> String {
    let mut text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n".to_owned();
    for (id, suite) in suites.iter().enumerate() {
        write_suite(&mut text, run, id, suite);
    }
    text + "</testsuites>"
}

fn write_suite(text: &mut String, run: &Run, id: usize, suite: &Suite<'_>) {
    let count = |wanted: fn(&CaseResult) -> bool| {
        let cases = suite.cases.iter();
        cases.filter(|case| wanted(&case.result)).count()
    };
    let _ = writeln!(
        text,
        "  <testsuite id=\"{id}\" package=\"cogo-host\" name=\"{}\" timestamp=\"{}\" hostname=\"{}\" \
         tests=\"{}\" failures=\"{}\" errors=\"{}\" time=\"{:.3}\">",
        xml(suite.name),
        // In UTC, which the schema wants without saying so.
        run.at.format("%Y-%m-%dT%H:%M:%S"),
        xml(&run.machine),
        suite.cases.len(),
        count(|result| matches!(result, CaseResult::Failure(_))),
        count(|result| matches!(result, CaseResult::Error(_))),
        // The sum of no floats at all has a sign.
        suite.cases.iter().fold(0.0, |sum, case| sum + case.seconds),
    );
    *text += "    <properties>\n";
    for (name, value) in &suite.properties {
        let (name, value) = (xml(name), xml(value));
        let _ = writeln!(text, "      <property name=\"{name}\" value=\"{value}\"/>");
    }
    *text += "    </properties>\n";
    for case in &suite.cases {
        write_case(text, suite.name, case);
    }
    *text += "    <system-out/>\n    <system-err/>\n  </testsuite>\n";
}

fn write_case(text: &mut String, suite: &str, case: &Case) {
    let _ = write!(
        text,
        "    <testcase classname=\"{}\" name=\"{}\" time=\"{:.3}\"",
        xml(suite),
        xml(&case.name),
        case.seconds
    );
    let (element, said) = match &case.result {
        CaseResult::Pass => {
            *text += "/>\n";
            return;
        }
        CaseResult::Failure(said) => ("failure", said),
        CaseResult::Error(said) => ("error", said),
    };
    let first = xml(said.lines().next().unwrap_or_default());
    let rest = xml(said.split_once('\n').map_or("", |(_, rest)| rest));
    let _ = writeln!(
        text,
        "><{element} type=\"{}\" message=\"{first}\">{rest}</{element}></testcase>",
        xml(suite)
    );
}

/// Escapes what markup would misread, and drops what XML cannot hold at all.
fn xml(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\n' | '\t' => escaped.push(c),
            c if c.is_control() || c == '\u{fffe}' || c == '\u{ffff}' => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_that_of_ant_and_nothing_said_breaks_it() {
        let case = |name: &str, seconds, result| Case {
            name: name.to_owned(),
            seconds,
            result,
        };
        let run = Run {
            at: DateTime::from_timestamp(1_700_000_000, 5).unwrap(),
            machine: "here".to_owned(),
        };
        let suite = Suite {
            name: "a&b",
            properties: vec![("digest", "sha256:0".to_owned())],
            cases: vec![
                case("fine", 0.25, CaseResult::Pass),
                case(
                    "<x>",
                    1.5,
                    CaseResult::Failure("\"no\"\n  - ]]>\u{0}".to_owned()),
                ),
                case("open", 0.0, CaseResult::Error("cannot tell".to_owned())),
            ],
        };
        let empty = Suite {
            name: "c",
            properties: Vec::new(),
            cases: Vec::new(),
        };
        assert_eq!(
            report(&run, &[suite, empty]),
            r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites>
  <testsuite id="0" package="cogo-host" name="a&amp;b" timestamp="2023-11-14T22:13:20" hostname="here" tests="3" failures="1" errors="1" time="1.750">
    <properties>
      <property name="digest" value="sha256:0"/>
    </properties>
    <testcase classname="a&amp;b" name="fine" time="0.250"/>
    <testcase classname="a&amp;b" name="&lt;x&gt;" time="1.500"><failure type="a&amp;b" message="&quot;no&quot;">  - ]]&gt;�</failure></testcase>
    <testcase classname="a&amp;b" name="open" time="0.000"><error type="a&amp;b" message="cannot tell"></error></testcase>
    <system-out/>
    <system-err/>
  </testsuite>
  <testsuite id="1" package="cogo-host" name="c" timestamp="2023-11-14T22:13:20" hostname="here" tests="0" failures="0" errors="0" time="0.000">
    <properties>
    </properties>
    <system-out/>
    <system-err/>
  </testsuite>
</testsuites>"#
        );
    }
}
