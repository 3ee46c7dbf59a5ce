//! Who gets a page and how: negotiation, tokens as a browser has them, links
//! from elsewhere, errors, headers, files.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use reqwest::{Method, RequestBuilder};

use super::super::harness::{Answer, Setup, TOKEN, TestApi};
use super::{BROWSER, browse, page};

fn reachable() -> Setup {
    Setup {
        bind: "0.0.0.0".parse().unwrap(),
        tokens: format!("ann:{TOKEN}\n"),
        ..Setup::default()
    }
}

fn signed_in(request: RequestBuilder, password: &str) -> RequestBuilder {
    request.basic_auth("whoever", Some(password))
}

async fn asked(api: &TestApi, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
    let request = api.request(method, path);
    let request = headers.iter().fold(request, |request, (name, value)| {
        request.header(*name, *value)
    });
    api.send(request).await
}

#[tokio::test]
async fn browsers_get_pages_and_programs_what_they_always_got() {
    let api = TestApi::start().await;
    assert!(page(&api, "/").await.contains("<h1>Overview</h1>"));
    for accept in ["*/*", "application/json", "text/plain"] {
        let answer = asked(&api, Method::GET, "/", &[("accept", accept)]).await;
        assert_eq!(answer.json()["name"], "cogo-host", "{accept}");
        assert_eq!(answer.header("vary"), "accept");
    }
    let head = asked(&api, Method::HEAD, "/ui/tasks", &[("accept", BROWSER)]).await;
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
    // What programs ask stays as it is, whoever asks.
    let tasks = browse(&api, "/api/tasks").await;
    assert_eq!(tasks.header("content-type"), "application/json");
}

#[tokio::test]
async fn errors_are_pages_for_browsers_alone() {
    let api = TestApi::start().await;
    for (path, status, code) in [
        ("/no/such/thing", 404, "not_found"),
        ("/ui/nothing", 404, "not_found"),
        ("/ui/assets/style.0.css", 404, "not_found"),
        (
            "/ui/tasks/018f0000-0000-7000-8000-000000000000",
            404,
            "task_not_found",
        ),
        ("/ui/tasks/x", 400, "id_invalid"),
        ("/ui/traces/unheard-of", 404, "trace_not_found"),
        ("/ui/rollouts/ro-1", 404, "rollout_not_found"),
        ("/ui/tasks?status=gone", 400, "parameter_invalid"),
        ("/ui/events?tpye=x", 400, "parameter_unknown"),
        ("/?x=1", 400, "parameter_unknown"),
    ] {
        let shown = browse(&api, path).await;
        let text = shown.text();
        assert_eq!(shown.status, status, "{path}");
        assert!(
            text.contains(&format!("<code>{code}</code>")),
            "{path}: {text}"
        );
        assert!(text.contains("What helps"), "{path} is not explained");
        assert!(
            text.contains(&format!("cogo-host explain {code}")),
            "{path}"
        );
        let told = api.get(path).await;
        assert_eq!(
            (told.status.as_u16(), &*told.code()),
            (status, code),
            "{path}"
        );
    }
    let api_error = browse(&api, "/api/tasks/x").await;
    assert_eq!(api_error.code(), "id_invalid");
}

#[tokio::test]
async fn a_database_that_is_away_is_a_page_that_says_so() {
    let api = TestApi::start().await;
    api.store.close().await.unwrap();
    for path in [
        "/",
        "/ui/tasks",
        "/ui/plugins",
        "/ui/rollouts",
        "/ui/events",
    ] {
        let answer = browse(&api, path).await;
        assert_eq!(answer.status, 503, "{path}");
        assert_eq!(answer.header("retry-after"), "1", "{path}");
        let text = answer.text();
        assert!(
            text.contains("the database is unavailable"),
            "{path}: {text}"
        );
        assert!(text.contains("database_unavailable"), "{path}");
    }
}

#[tokio::test]
async fn a_browser_is_asked_for_the_token_and_reads_with_it() {
    let api = TestApi::with(reachable()).await;
    for path in [
        "/",
        "/ui/tasks",
        "/api/tasks",
        "/api/events",
        "/artifacts/a/b",
    ] {
        let denied = browse(&api, path).await;
        assert_eq!(denied.status, 401, "{path}");
        let challenge = denied.header("www-authenticate");
        assert!(challenge.starts_with("Basic realm="), "{path}: {challenge}");
        let program = api.get(path).await;
        assert!(
            program.header("www-authenticate").starts_with("Bearer"),
            "{path}"
        );
        assert_eq!(program.code(), "token_missing");
    }
    // Nothing of the host is told to those who were not let in.
    let denied = browse(&api, "/").await.text();
    assert!(
        denied.contains("token_missing") && !denied.contains("test-host"),
        "{denied}"
    );

    for path in ["/", "/ui/tasks", "/api/tasks"] {
        let request = api.request(Method::GET, path).header("accept", BROWSER);
        assert_eq!(
            api.send(signed_in(request, TOKEN)).await.status,
            200,
            "{path}"
        );
    }
    let wrong = signed_in(api.request(Method::GET, "/"), "not the token at all");
    assert_eq!(api.send(wrong).await.code(), "token_wrong");
}

#[tokio::test]
async fn what_a_browser_was_told_never_writes() {
    let api = TestApi::with(reachable()).await;
    let cancel = "/api/tasks/018f0000-0000-7000-8000-000000000000/cancel";
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
        let request = api
            .request(method.clone(), cancel)
            .header("accept", BROWSER);
        let answer = api.send(signed_in(request, TOKEN)).await;
        assert_eq!(answer.status, 401, "{method}");
        assert!(
            answer.header("www-authenticate").starts_with("Bearer"),
            "{method}"
        );
    }
    let program = api.request(Method::POST, cancel).bearer_auth(TOKEN);
    assert_eq!(api.send(program).await.code(), "task_not_found");
}

#[tokio::test]
async fn guessing_in_a_browser_is_slowed_down() {
    let api = TestApi::with(reachable()).await;
    for _ in 0..10 {
        let request = api.request(Method::GET, "/").header("accept", BROWSER);
        let wrong = api.send(signed_in(request, "a guess of some length")).await;
        assert_eq!(wrong.status, 401);
    }
    let request = api.request(Method::GET, "/").header("accept", BROWSER);
    let blocked = api.send(signed_in(request, TOKEN)).await;
    assert_eq!(blocked.status, 429);
    assert!(blocked.text().contains("token_failures"));
    assert!(!blocked.header("retry-after").is_empty());
}

#[tokio::test]
async fn a_link_from_elsewhere_leads_to_pages_and_nothing_else_does() {
    let api = TestApi::with(reachable()).await;
    let pair = BASE64_STANDARD.encode(format!("x:{TOKEN}"));
    let basic = format!("Basic {pair}");
    let from = |site: &'static str, mode: &'static str, dest: &'static str| {
        [
            ("sec-fetch-site", site),
            ("sec-fetch-mode", mode),
            ("sec-fetch-dest", dest),
        ]
    };
    let link = from("cross-site", "navigate", "document");
    let frame = from("cross-site", "navigate", "iframe");
    let load = from("cross-site", "no-cors", "image");
    let own = from("same-origin", "cors", "empty");
    let typed = from("none", "navigate", "document");
    for (path, headers, status) in [
        ("/ui/tasks", link, 200),
        ("/", link, 200),
        ("/ui/tasks", frame, 403),
        ("/ui/tasks", load, 403),
        ("/api/tasks", link, 403),
        ("/api/events", load, 403),
        ("/artifacts/a/b", link, 403),
        ("/ui/tasks", own, 200),
        ("/api/tasks", own, 200),
        ("/api/tasks", typed, 200),
    ] {
        let mut all = headers.to_vec();
        all.extend([("authorization", basic.as_str()), ("accept", BROWSER)]);
        let answer = asked(&api, Method::GET, path, &all).await;
        assert_eq!(answer.status, status, "{path} {headers:?}");
    }
    // A program's token does not go along by itself.
    let bearer = format!("Bearer {TOKEN}");
    let mut all = load.to_vec();
    all.push(("authorization", &bearer));
    assert_eq!(
        asked(&api, Method::GET, "/api/tasks", &all).await.status,
        200
    );
    // Names of others stay refused.
    let host = ("host", "evil.example");
    let answer = asked(&api, Method::GET, "/", &[host, ("accept", BROWSER)]).await;
    assert_eq!(answer.status, 421);
}

#[tokio::test]
async fn every_page_is_shut_in() {
    let api = TestApi::with(reachable()).await;
    let paths = [
        "/",
        "/ui/tasks",
        "/ui/plugins",
        "/ui/rollouts",
        "/ui/events",
        "/ui/none",
    ];
    for (path, token) in paths.into_iter().flat_map(|p| [(p, TOKEN), (p, "wrong")]) {
        let request = api.request(Method::GET, path).header("accept", BROWSER);
        let answer = api.send(signed_in(request, token)).await;
        let policy = answer.header("content-security-policy");
        assert!(policy.starts_with("default-src 'self'"), "{path}: {policy}");
        assert!(
            policy.contains("frame-ancestors 'none'"),
            "{path}: {policy}"
        );
        assert!(policy.contains("base-uri 'none'"), "{path}: {policy}");
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("referrer-policy"), "no-referrer");
        assert_eq!(answer.header("cache-control"), "no-store");
        let html = answer.text();
        for inline in ["<script>", " style=", "<style", " onclick", "javascript:"] {
            assert!(!html.contains(inline), "{path} has {inline}");
        }
    }
}

#[tokio::test]
async fn files_are_kept_for_ever_under_the_hash_of_their_bytes() {
    let api = TestApi::start().await;
    let html = page(&api, "/").await;
    for (suffix, media_type) in [
        (".css", "text/css; charset=utf-8"),
        (".js", "text/javascript; charset=utf-8"),
        (".svg", "image/svg+xml"),
    ] {
        let files = html
            .split('"')
            .filter(|part| part.starts_with("/ui/assets/"));
        let file = files.clone().find(|file| file.ends_with(suffix)).unwrap();
        let answer = api.get(file).await;
        assert_eq!(answer.status, 200, "{file}");
        assert_eq!(answer.header("content-type"), media_type);
        assert!(
            answer.header("cache-control").contains("immutable"),
            "{file}"
        );
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        let hash = cogo_host::ids::Digest::of(&answer.body).hex();
        assert!(file.contains(&hash[..16]), "{file}");
    }
}
