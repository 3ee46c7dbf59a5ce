//! What `/openapi.json` says is what the host does. Every answer that any test of
//! the API gets is held against it, and so is every body that was accepted.

use std::sync::LazyLock;

use axum::http::Method;
use serde_json::{Value, json};

use super::examples::lived_in;
use super::harness::{Answer, TestApi};

static DOCUMENT: LazyLock<Value> = LazyLock::new(cogo_host::api::openapi);

/// A method of a path, as it is described.
struct Described<'a> {
    method: Method,
    path: &'a str,
    operation: &'a Value,
}

fn described() -> impl Iterator<Item = Described<'static>> {
    let paths = DOCUMENT["paths"].as_object().unwrap();
    paths.iter().flat_map(|(path, methods)| {
        let methods = methods.as_object().unwrap();
        methods.iter().map(move |(method, operation)| Described {
            method: method.to_uppercase().parse().unwrap(),
            path,
            operation,
        })
    })
}

impl Described<'_> {
    fn fits(&self, method: &Method, path: &str) -> bool {
        let (ours, theirs) = (self.path.split('/'), path.split('/'));
        let (parts, theirs_parts) = (ours.clone().count(), theirs.clone().count());
        // The path of an artifact has parts of its own.
        let long = self.path.ends_with("/{path}") && theirs_parts > parts;
        *method == self.method
            && (parts == theirs_parts || long)
            && ours
                .zip(theirs)
                .all(|(our, their)| our == their || our.starts_with('{'))
    }

    fn schema(&self, status: u16) -> &Value {
        let responses = &self.operation["responses"];
        let response = responses.get(status.to_string());
        let response = response.unwrap_or_else(|| {
            assert!(
                status >= 400,
                "{} {} answers {status}",
                self.method,
                self.path
            );
            &responses["default"]
        });
        &response["content"]["application/json"]["schema"]
    }

    fn query(&self) -> Vec<&str> {
        let parameters = self.operation["parameters"].as_array().unwrap().iter();
        let parameters = parameters.filter(|parameter| parameter["in"] == "query");
        parameters.map(|p| p["name"].as_str().unwrap()).collect()
    }
}

/// Whether a path is one of the dashboard.
pub fn is_page(method: &Method, path: &str) -> bool {
    let pages = cogo_host::api::page_paths();
    let of_pages = pages.iter().any(|written| {
        let page = Described {
            method: Method::GET,
            path: written.split('?').next().unwrap(),
            operation: &Value::Null,
        };
        page.fits(method, path)
    });
    of_pages || (path, method) == ("/", &Method::GET)
}

fn validate(schema: &Value, value: &Value, what: &str) {
    // References lead into the document's own components.
    let root = json!({ "allOf": [schema], "components": DOCUMENT["components"] });
    let validator = jsonschema::draft202012::new(&root).unwrap();
    let errors: Vec<String> = validator
        .iter_errors(value)
        .map(|error| format!("{}: {error}", error.instance_path))
        .collect();
    assert!(errors.is_empty(), "{what}: {errors:#?}\n{value:#}");
}

/// Whether an operation that reads is described, such as `/api/tasks?limit=1`.
pub fn is_described(method: &Method, target: &str) -> bool {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let one = described().find(|one| one.fits(method, path));
    one.is_some_and(|one| {
        let names = url::form_urlencoded::parse(query.as_bytes());
        let known = one.query();
        names.into_owned().all(|(name, _)| known.contains(&&*name))
    })
}

/// Panics where an answer, or the body that got it, is not as described.
pub fn check(method: &Method, path: &str, sent: Option<&[u8]>, answer: &Answer) {
    // A HEAD is answered as its GET is, without a body.
    let described_method = if *method == Method::HEAD {
        &Method::GET
    } else {
        method
    };
    let html = answer.header("content-type").starts_with("text/html");
    if html && is_page(described_method, path) {
        return;
    }
    let Some(one) = described().find(|one| one.fits(described_method, path)) else {
        // What people read is listed beside it, in a list of its own.
        assert!(
            answer.status.is_client_error() || is_page(described_method, path),
            "{method} {path} is served and neither described nor a page"
        );
        return;
    };
    let what = format!("{method} {path} {}", answer.status);
    if answer.header("content-type") == "application/json" && !answer.body.is_empty() {
        validate(one.schema(answer.status.as_u16()), &answer.json(), &what);
    }
    let takes = &one.operation["requestBody"]["content"]["application/json"]["schema"];
    if let (true, true, Some(sent)) = (answer.status.is_success(), takes.is_object(), sent) {
        let sent = serde_json::from_slice(sent).unwrap();
        validate(takes, &sent, &format!("the body of {what}"));
    }
}

#[tokio::test]
async fn the_listing_and_the_description_are_of_the_same_paths() {
    let api = TestApi::start().await;
    assert_eq!(api.get("/openapi.json").await.json(), *DOCUMENT);
    let index = api.get("/").await.json();
    let listed = index["paths"].as_array().unwrap().iter();
    for line in listed.clone() {
        let (method, rest) = line.as_str().unwrap().split_once(' ').unwrap();
        let path = rest.split('?').next().unwrap();
        let method = method.parse().unwrap();
        assert!(described().any(|one| one.fits(&method, path)), "{line}");
    }
    assert!(listed.count() >= described().count());
}

#[tokio::test]
async fn every_question_that_is_described_is_answered_as_described() {
    let api = lived_in().await;
    let tasks = api.get("/api/tasks?trace=good").await.json();
    let id = tasks["tasks"][0]["id"].as_str().unwrap();
    let mut answered = 0;
    for one in described().filter(|one| one.method == Method::GET) {
        // Never ends; what it carries is checked by the tests that follow it.
        if one.path == "/api/events" {
            continue;
        }
        let path = match one.path {
            "/artifacts/{task}/{path}" => "/artifacts/t1/report.txt".to_owned(),
            "/api/tasks/{id}" => format!("/api/tasks/{id}"),
            path => path.replace("{trace}", "good"),
        };
        // Of those that lead to what this host has none of, the error is checked.
        let answer = api.get(&path).await;
        let missing = path.contains('{');
        assert_eq!(
            answer.status.is_success(),
            !missing,
            "{path}: {}",
            answer.text()
        );
        answered += usize::from(!missing);
    }
    assert!(answered >= 20, "only {answered} were answered");
}

#[tokio::test]
async fn a_question_takes_the_parameters_that_are_described_and_no_other() {
    let api = lived_in().await;
    let tasks = api.get("/api/tasks?trace=good").await.json();
    let id = tasks["tasks"][0]["id"].as_str().unwrap();
    let mut asked = 0;
    for one in described().filter(|one| one.method == Method::GET) {
        // Answered whatever comes with them: supervisors and browsers add things.
        let open = [
            "/healthz",
            "/readyz",
            "/metrics",
            "/artifacts/{task}/{path}",
        ];
        if open.contains(&one.path) {
            continue;
        }
        let path = one.path.replace("{trace}", "good").replace("{id}", id);
        let refused = api.get(&format!("{path}?zzz=1")).await;
        assert_eq!(refused.code(), "parameter_unknown", "{path}");
        let expected = match one.query().as_slice() {
            [] => "this path takes none".to_owned(),
            names => format!("there are: {}", names.join(", ")),
        };
        assert_eq!(refused.hint(), expected, "{path}");
        asked += 1;
    }
    assert!(asked >= 20, "only {asked} were asked");
}

#[tokio::test]
async fn a_method_that_is_not_described_is_none() {
    let api = TestApi::start().await;
    for one in described() {
        for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE] {
            let known = described().any(|other| other.path == one.path && other.method == method);
            let path = one.path.replace(['{', '}'], "");
            if !known {
                let request = api.request(method.clone(), &path).json(&json!({}));
                let refused = api.send(request).await;
                assert_eq!(refused.status, 405, "{method} {path}");
            }
        }
    }
}
