//! JUnit XML, as continuous integration reads it.

use std::fmt::Write as _;

/// A suite of cases.
pub struct Suite<'a> {
    pub name: &'a str,
    pub cases: Vec<Case>,
}

/// One case and how it came out.
pub struct Case {
    pub name: String,
    /// In seconds, where it was measured.
    pub seconds: Option<f64>,
    pub result: CaseResult,
}

pub enum CaseResult {
    Pass,
    Failure(String),
    /// It could not be told.
    Error(String),
}

/// The report of all suites.
pub fn report(suites: &[Suite<'_>]) -> String {
    let mut text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n".to_owned();
    for suite in suites {
        let count = |wanted: fn(&CaseResult) -> bool| {
            let cases = suite.cases.iter();
            cases.filter(|case| wanted(&case.result)).count()
        };
        let _ = writeln!(
            text,
            "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" errors=\"{}\">",
            xml(suite.name),
            suite.cases.len(),
            count(|result| matches!(result, CaseResult::Failure(_))),
            count(|result| matches!(result, CaseResult::Error(_))),
        );
        for case in &suite.cases {
            write_case(&mut text, suite.name, case);
        }
        text += "  </testsuite>\n";
    }
    text + "</testsuites>"
}

fn write_case(text: &mut String, suite: &str, case: &Case) {
    let time = case
        .seconds
        .map(|seconds| format!(" time=\"{seconds:.3}\""));
    let _ = write!(
        text,
        "    <testcase classname=\"{}\" name=\"{}\"{}",
        xml(suite),
        xml(&case.name),
        time.unwrap_or_default()
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
    let _ = match rest.is_empty() {
        true => writeln!(text, "><{element} message=\"{first}\"/></testcase>"),
        false => writeln!(
            text,
            "><{element} message=\"{first}\">{rest}</{element}></testcase>"
        ),
    };
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
    fn what_a_plugin_says_cannot_break_the_markup() {
        let case = |name: &str, result| Case {
            name: name.to_owned(),
            seconds: None,
            result,
        };
        let text = report(&[Suite {
            name: "a&b",
            cases: vec![
                case("fine", CaseResult::Pass),
                case(
                    "<x>",
                    CaseResult::Failure("\"no\"\n  - ]]>\u{0}".to_owned()),
                ),
                case("open", CaseResult::Error("cannot tell".to_owned())),
            ],
        }]);
        assert_eq!(
            text,
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n\
             \x20 <testsuite name=\"a&amp;b\" tests=\"3\" failures=\"1\" errors=\"1\">\n\
             \x20   <testcase classname=\"a&amp;b\" name=\"fine\"/>\n\
             \x20   <testcase classname=\"a&amp;b\" name=\"&lt;x&gt;\"><failure message=\"&quot;no&quot;\">  - ]]&gt;\u{fffd}</failure></testcase>\n\
             \x20   <testcase classname=\"a&amp;b\" name=\"open\"><error message=\"cannot tell\"/></testcase>\n\
             \x20 </testsuite>\n</testsuites>"
        );
    }
}
