//! What producers and guests write stays text on every page.

use serde_json::{Value, json};

use super::super::harness::TestApi;
use super::page;

/// What has broken out of pages and eyes elsewhere.
const NASTY: &[&str] = &[
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "</pre><script>alert(1)</script>",
    "</title></head><body onload=alert(1)>",
    "<img src=x onerror=alert(1)>",
    "\"><img src=x onerror=alert(1)>",
    "' onmouseover='alert(1)",
    "\" autofocus onfocus=\"alert(1)",
    "<svg/onload=alert(1)>",
    "<svg><animate onbegin=alert(1) attributeName=x>",
    "<math><mtext></p><style><img src=x onerror=alert(1)></style>",
    "<iframe srcdoc='<script>alert(1)</script>'>",
    "<a href=\"javascript:alert(1)\">x</a>",
    "<base href=//evil.example/>",
    "<meta http-equiv=refresh content='0;url=//evil.example'>",
    "<link rel=stylesheet href=//evil.example/x.css>",
    "<form action=//evil.example><input name=a>",
    "<!--",
    "-->",
    "]]>",
    "<![CDATA[<script>alert(1)</script>]]>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;script&#62;",
    "{{ 7*7 }}",
    "{% raw %}",
    "${7*7}",
    "#{7*7}",
    "<div hx-get=/api/tasks hx-trigger=load>",
    "\u{202e}gnp.exe",
    "\u{2066}isolate",
    "a\u{200b}b",
    "\u{feff}",
    "\u{2028}",
    "\u{1b}[31mred",
    "\u{1b}]0;title\u{7}",
    "bell\u{7}",
    "\u{9b}2J",
    "\r\nset-cookie: a=b",
    "<b>bold</b>",
    "`id`",
    "$(id)",
    "%3Cscript%3E",
    "\\u003cscript\\u003e",
];

/// Characters that are read as nothing and do something.
const UNSEEN: &[char] = &[
    '\u{202e}', '\u{2066}', '\u{200b}', '\u{feff}', '\u{2028}', '\u{1b}', '\u{7}', '\u{9b}', '\r',
];

fn nasty_payload() -> Value {
    let mut payload = serde_json::Map::new();
    for (at, text) in NASTY.iter().enumerate() {
        payload.insert(format!("{at} {text}"), json!(text));
    }
    payload.insert("do".to_owned(), json!("fail"));
    Value::Object(payload)
}

/// Every tag of a page is one that its templates have.
fn check(html: &str, path: &str) {
    let known = [
        "!doctype", "html", "head", "meta", "title", "link", "script", "body", "a", "header",
        "nav", "ul", "ol", "li", "p", "span", "main", "section", "h1", "h2", "h3", "div", "table",
        "caption", "thead", "tbody", "tr", "th", "td", "code", "pre", "dl", "dt", "dd", "time",
        "strong", "article", "details", "summary", "form", "label", "input", "datalist", "option",
        "button", "dialog", "kbd", "footer", "svg", "rect", "progress",
    ];
    for tag in html.split('<').skip(1) {
        let name = tag.trim_start_matches('/');
        let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '!');
        let name = &name[..end.unwrap_or(name.len())];
        assert!(known.contains(&name), "{path} has <{tag:.60}");
    }
    assert_eq!(html.matches("<script").count(), 1, "{path}");
    // Attributes end where the templates end them.
    for tag in html.split('<').skip(1) {
        let tag = tag.split('>').next().unwrap();
        assert_eq!(tag.matches('"').count() % 2, 0, "{path} has <{tag}");
        let outside: String = tag.split('"').step_by(2).collect();
        assert!(!outside.contains(" on"), "{path} has <{tag}");
        assert!(!tag.contains("\"javascript:"), "{path} has <{tag}");
    }
    for c in UNSEEN {
        assert!(!html.contains(*c), "{path} has {c:?}");
    }
}

#[tokio::test]
async fn nothing_that_anybody_wrote_is_markup() {
    let api = TestApi::start().await;
    // A label may hold anything; a trace id is of visible characters.
    for (at, text) in NASTY.iter().enumerate() {
        let label: String = text.chars().filter(|c| !c.is_control()).take(60).collect();
        let trace: String = text
            .chars()
            .filter(char::is_ascii_graphic)
            .take(60)
            .collect();
        let trace = format!("{at}{trace}");
        let task = json!({ "task_id": format!("{at}{label}"), "trace_id": trace, "payload": nasty_payload() });
        let _ = api.submit(task).await;
        let _ = api.until(&encoded(&trace), "execute_failed").await;
    }
    let listed = api.get("/api/tasks?limit=500").await.json();
    let mut paths = vec![
        "/".to_owned(),
        "/ui/tasks?limit=500".to_owned(),
        "/ui/events?limit=1000".to_owned(),
        "/ui/plugins".to_owned(),
        "/ui/rollouts".to_owned(),
    ];
    for task in listed["tasks"].as_array().unwrap() {
        paths.push(format!("/ui/tasks/{}", task["id"].as_str().unwrap()));
        let trace = encoded(task["trace_id"].as_str().unwrap());
        paths.push(format!("/ui/traces/{trace}"));
        paths.push(format!("/ui/events?trace={trace}"));
        paths.push(format!("/ui/tasks?trace={trace}"));
    }
    assert!(paths.len() > 4 * NASTY.len());
    for path in paths {
        check(&page(&api, &path).await, &path);
    }
    for text in NASTY {
        let path = format!("/{}", encoded(text));
        let answer = super::browse(&api, &path).await;
        assert_eq!(answer.status, 404);
        check(&answer.text(), &path);
    }
}

fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes())
        .collect::<String>()
        .replace('+', "%20")
}

#[tokio::test]
async fn what_turns_text_around_is_shown_for_what_it_is() {
    let api = TestApi::start().await;
    let payload = json!({ "note": "a\u{202e}b\u{1b}c" });
    let id = api.submit(json!({ "payload": payload })).await;
    let html = page(&api, &format!("/ui/tasks/{id}")).await;
    assert!(html.contains(r"a\u202eb\u001bc"), "{html}");
}
