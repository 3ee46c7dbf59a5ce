//! Answers requests from a list of rules instead of from the network.
//!
//! Nothing of a mocked attempt ever leaves the process, and the plugin cannot
//! tell: the same limits hold, and a request that no rule answers is refused as
//! the policy would refuse it, with the rule to add in the attempt's log.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use url::Url;
use wasmtime_wasi_http::Error;

use crate::expect::{Expectation, InvalidExpectation};

/// A rule as it is written.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    method: Option<String>,
    /// An expectation of the whole URL.
    url: Value,
    /// Expectations of headers by their name.
    #[serde(default)]
    headers: BTreeMap<String, Value>,
    /// An expectation of the body: as JSON where it is JSON, else as text.
    body: Option<Value>,
    /// How often it answers; always where absent.
    times: Option<u32>,
    #[serde(default)]
    delay_ms: u64,
    respond: Option<RawResponse>,
    fail: Option<Failing>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawResponse {
    #[serde(default = "ok")]
    status: u16,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// Sent as it is.
    text: Option<String>,
    /// Sent as JSON.
    json: Option<Value>,
}

const fn ok() -> u16 {
    200
}

/// How a request fails without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Failing {
    ConnectionRefused,
    ConnectionReset,
    ConnectTimeout,
    ResponseTimeout,
    Dns,
    Tls,
}

impl Failing {
    fn error(self) -> Error {
        match self {
            Self::ConnectionRefused => Error::ConnectionRefused,
            Self::ConnectionReset => Error::ConnectionTerminated,
            Self::ConnectTimeout => Error::ConnectionTimeout,
            Self::ResponseTimeout => Error::HttpResponseTimeout,
            Self::Dns => Error::DnsError {
                rcode: Some("the name does not resolve".to_owned()),
                info_code: None,
            },
            Self::Tls => Error::TlsCertificateError,
        }
    }
}

/// Why a list of rules cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidMock {
    #[error("expected an array of rules: {0}")]
    Shape(#[from] serde_json::Error),
    #[error("rule {rule}: `{field}` {problem}")]
    Rule {
        /// Counted from 0.
        rule: usize,
        field: &'static str,
        problem: String,
    },
}

/// One rule: which requests it is for, and what becomes of them.
#[derive(Debug, Clone)]
struct Rule {
    method: Option<Method>,
    url: Expectation,
    headers: Vec<(HeaderName, Expectation)>,
    body: Option<Expectation>,
    times: Option<u32>,
    delay: Duration,
    answer: Answer,
}

#[derive(Debug, Clone)]
enum Answer {
    Respond {
        status: StatusCode,
        headers: HeaderMap,
        body: Bytes,
    },
    Fail(Failing),
}

/// A request that a plugin sent to a mock.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SeenRequest {
    pub method: String,
    pub url: String,
    /// What the plugin set itself, by lower-case name.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub headers: Map<String, Value>,
    /// JSON where it is JSON, else text; absent where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<Value>,
}

/// The rules of one attempt, and what was asked of them.
#[derive(Debug, Default)]
pub struct HttpMock {
    rules: Vec<Rule>,
    // Held for a few instructions at a time, never across an await.
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// How often each rule answered.
    used: BTreeMap<usize, u32>,
    requests: Vec<SeenRequest>,
}

/// What a rule gives.
pub(super) struct Given {
    pub(super) delay: Duration,
    pub(super) answer: Result<http::Response<Bytes>, Error>,
}

impl HttpMock {
    /// Reads rules; the first that fits a request and is not used up answers it.
    ///
    /// # Errors
    /// [`InvalidMock`] names the rule and its field.
    pub fn parse(rules: &Value) -> Result<Self, InvalidMock> {
        let raw = Vec::<RawRule>::deserialize(rules)?;
        let rules = raw.into_iter().enumerate();
        Ok(Self {
            rules: rules
                .map(|(at, raw)| rule(at, raw))
                .collect::<Result<_, _>>()?,
            seen: Mutex::default(),
        })
    }

    /// All requests so far, those that no rule answered included.
    pub fn seen(&self) -> Vec<SeenRequest> {
        self.seen.lock().requests.clone()
    }

    /// What becomes of a request; nothing where no rule is for it.
    pub(super) fn answer(&self, request: Arriving<'_>) -> Option<Given> {
        let body = content(request.body);
        let mut seen = self.seen.lock();
        seen.requests.push(request.seen(body.clone()));
        let mut rules = self.rules.iter().enumerate();
        let (at, rule) = rules.find(|(at, rule)| {
            let used = seen.used.get(at).copied().unwrap_or_default();
            rule.times.is_none_or(|times| used < times) && rule.is_for(&request, body.as_ref())
        })?;
        *seen.used.entry(at).or_default() += 1;
        Some(rule.give())
    }
}

/// A request on its way.
pub(super) struct Arriving<'a> {
    pub(super) method: &'a Method,
    pub(super) url: &'a Url,
    /// What the plugin set.
    pub(super) headers: &'a HeaderMap,
    pub(super) body: &'a [u8],
}

impl Arriving<'_> {
    fn seen(&self, body: Option<Value>) -> SeenRequest {
        let headers = self.headers.iter().map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.as_str().to_owned(), Value::String(value))
        });
        SeenRequest {
            method: self.method.as_str().to_owned(),
            url: self.url.to_string(),
            headers: headers.collect(),
            body,
        }
    }

    /// The rule that would answer this request, to be pasted.
    pub(super) fn rule_to_add(&self) -> String {
        let rule = json!({
            "method": self.method.as_str(),
            "url": self.url.as_str(),
            "respond": { "status": 200, "json": {} },
        });
        rule.to_string()
    }
}

impl Rule {
    fn is_for(&self, request: &Arriving<'_>, body: Option<&Value>) -> bool {
        let header = |(name, expected): &(HeaderName, Expectation)| {
            let value = request.headers.get(name);
            let text = value.and_then(|value| value.to_str().ok());
            text.is_some_and(|text| expected.holds(&text.into()))
        };
        self.method.as_ref().is_none_or(|m| m == request.method)
            && self.url.holds(&request.url.as_str().into())
            && self.headers.iter().all(header)
            && self
                .body
                .as_ref()
                .is_none_or(|expected| expected.holds(body.unwrap_or(&Value::Null)))
    }

    fn give(&self) -> Given {
        let answer = match &self.answer {
            Answer::Fail(failing) => Err(failing.error()),
            Answer::Respond {
                status,
                headers,
                body,
            } => {
                let mut response = http::Response::new(body.clone());
                *response.status_mut() = *status;
                *response.headers_mut() = headers.clone();
                Ok(response)
            }
        };
        Given {
            delay: self.delay,
            answer,
        }
    }
}

/// A body as an expectation sees it.
fn content(body: &[u8]) -> Option<Value> {
    if body.is_empty() {
        return None;
    }
    let json = serde_json::from_slice(body).ok();
    Some(json.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned().into()))
}

fn rule(at: usize, raw: RawRule) -> Result<Rule, InvalidMock> {
    let invalid = |field: &'static str, problem: String| InvalidMock::Rule {
        rule: at,
        field,
        problem,
    };
    let expectation = |field: &'static str, value: &Value| {
        Expectation::parse(value)
            .map_err(|cause: InvalidExpectation| invalid(field, cause.to_string()))
    };
    let method = raw.method.map(|text| {
        let method = Method::from_bytes(text.as_bytes());
        method.map_err(|_| invalid("method", format!("`{text}` is no HTTP method")))
    });
    let headers = raw.headers.iter().map(|(name, value)| {
        let parsed = name.parse::<HeaderName>();
        let parsed = parsed.map_err(|_| invalid("headers", format!("`{name}` is no header")))?;
        Ok::<_, InvalidMock>((parsed, expectation("headers", value)?))
    });
    Ok(Rule {
        method: method.transpose()?,
        url: expectation("url", &normal(&raw.url).map_err(|p| invalid("url", p))?)?,
        headers: headers.collect::<Result<_, _>>()?,
        body: raw
            .body
            .map(|body| expectation("body", &body))
            .transpose()?,
        times: raw.times,
        delay: Duration::from_millis(raw.delay_ms),
        answer: match (raw.respond, raw.fail) {
            (Some(respond), None) => respond.answer().map_err(|p| invalid("respond", p))?,
            (None, Some(failing)) => Answer::Fail(failing),
            _ => {
                let problem = "or `fail` is wanted, one of them".to_owned();
                return Err(invalid("respond", problem));
            }
        },
    })
}

/// A URL in the one form that requests have.
fn normal(url: &Value) -> Result<Value, String> {
    match url {
        Value::String(text) => match Url::parse(text) {
            Ok(url) => Ok(url.to_string().into()),
            Err(cause) => Err(format!("`{text}` is no URL: {cause}")),
        },
        matcher => Ok(matcher.clone()),
    }
}

impl RawResponse {
    fn answer(self) -> Result<Answer, String> {
        let status = StatusCode::from_u16(self.status)
            .map_err(|_| format!("has the status {}; expected 100 to 999", self.status))?;
        let mut headers = HeaderMap::new();
        let body = match (self.text, self.json) {
            (Some(_), Some(_)) => return Err("has both `text` and `json`".to_owned()),
            (Some(text), None) => Bytes::from(text),
            (None, Some(json)) => {
                headers.insert(
                    header::CONTENT_TYPE,
                    HeaderValue::from_static("application/json"),
                );
                Bytes::from(json.to_string())
            }
            (None, None) => Bytes::new(),
        };
        for (name, value) in self.headers {
            let usable = (name.parse::<HeaderName>(), value.parse::<HeaderValue>());
            let (Ok(name), Ok(value)) = usable else {
                return Err(format!("has an unusable header `{name}`"));
            };
            headers.insert(name, value);
        }
        Ok(Answer::Respond {
            status,
            headers,
            body,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(mock: &HttpMock, method: Method, url: &str, body: &str) -> Option<Given> {
        mock.answer(Arriving {
            method: &method,
            url: &url.parse().unwrap(),
            headers: &HeaderMap::new(),
            body: body.as_bytes(),
        })
    }

    #[test]
    fn the_first_rule_that_fits_and_is_not_used_up_answers() {
        let rules = json!([
            { "url": "http://w/a", "times": 1, "respond": { "status": 503 } },
            { "method": "POST", "url": "http://w/a", "body": { "$subset": { "n": 1 } },
              "respond": { "json": { "ok": true } } },
            { "url": { "$pattern": "http://w/.*" }, "fail": "connection-refused" },
        ]);
        let mock = HttpMock::parse(&rules).unwrap();
        let status = |given: Option<Given>| given.unwrap().answer.unwrap().status().as_u16();
        assert_eq!(status(ask(&mock, Method::GET, "http://w/a", "")), 503);
        assert_eq!(
            status(ask(&mock, Method::POST, "http://w/a", r#"{"n":1,"m":2}"#)),
            200
        );
        let failed = ask(&mock, Method::POST, "http://w/a", r#"{"n":2}"#).unwrap();
        assert!(matches!(failed.answer, Err(Error::ConnectionRefused)));
        assert!(ask(&mock, Method::GET, "http://other/", "").is_none());
        assert_eq!(mock.seen().len(), 4);
        assert_eq!(mock.seen()[1].body, Some(json!({ "n": 1, "m": 2 })));
    }

    #[test]
    fn a_rule_that_makes_no_sense_is_named() {
        for (rules, part) in [
            (json!({}), "array of rules"),
            (json!([{ "url": "http://a", "responds": {} }]), "responds"),
            (
                json!([{ "url": "http://a" }]),
                "rule 0: `respond` or `fail`",
            ),
            (
                json!([{ "url": "nowhere", "fail": "dns" }]),
                "rule 0: `url` `nowhere` is no URL",
            ),
            (
                json!([{ "url": "http://a", "respond": { "status": 7 } }]),
                "the status 7",
            ),
            (
                json!([{ "url": "http://a", "body": { "$same": 1 }, "fail": "dns" }]),
                "`body` at `.`: `$same` is no matcher",
            ),
        ] {
            let refused = HttpMock::parse(&rules).unwrap_err().to_string();
            assert!(refused.contains(part), "{refused}");
        }
    }
}
