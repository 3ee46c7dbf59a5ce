//! The dashboard over a real socket: who gets a page, what it holds, that what
//! guests and producers wrote stays text, and that what it shows can be had.

mod access;
mod content;
mod hostile;
mod reached;

use reqwest::{Method, StatusCode};

use super::harness::{Answer, TestApi};

/// As browsers say it.
const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

/// What a browser gets.
async fn browse(api: &TestApi, path: &str) -> Answer {
    let request = api.request(Method::GET, path).header("accept", BROWSER);
    api.send(request).await
}

/// A page that is there.
async fn page(api: &TestApi, path: &str) -> String {
    let answer = browse(api, path).await;
    assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text());
    let media_type = answer.header("content-type");
    assert_eq!(media_type, "text/html; charset=utf-8", "{path}");
    answer.text()
}

/// What stands between each of these openings and its end, references resolved.
fn all_between<'a>(html: &'a str, open: &'a str, close: &'a str) -> impl Iterator<Item = String> {
    let parts = html.split(open).skip(1);
    parts.map(move |part| unescaped(part.split(close).next().unwrap()))
}

/// As a browser reads the references that the pages have.
fn unescaped(text: &str) -> String {
    [
        ("&#60;", "<"),
        ("&#62;", ">"),
        ("&#34;", "\""),
        ("&#39;", "'"),
        ("&#38;", "&"),
    ]
    .into_iter()
    .fold(text.to_owned(), |text, (reference, c)| {
        text.replace(reference, c)
    })
}
