//! A real browser, steered over the pipe of its debugging protocol.
//!
//! Fails where there is none: a test that is skipped shows nothing. Nothing here
//! sleeps: a page is asked to say when something has happened to it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::Instant;

use serde_json::{Value, json};

use super::process::PATIENCE;

/// The protocol is spoken on descriptors 3 and 4, which a shell can make of
/// those that a child process is given.
const START: &str = r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >&2"#;
/// As Debian and others call it.
const PROGRAMS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

pub struct Browser {
    child: Child,
    orders: ChildStdin,
    messages: mpsc::Receiver<Value>,
    /// Of the one page.
    session: Option<String>,
    orders_given: u64,
    /// Answers to orders that were not waited for yet, and events.
    seen: Vec<Value>,
    _profile: tempfile::TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program() -> String {
    let path = std::env::var_os("PATH").unwrap();
    let found = PROGRAMS.into_iter().find_map(|name| {
        let mut places = std::env::split_paths(&path).map(|place| place.join(name));
        places.find(|program| program.is_file())
    });
    let found = found.expect("a browser is needed: tests/setup installs chromium");
    found.to_str().unwrap().to_owned()
}

impl Browser {
    /// Starts one with one empty page.
    pub fn start() -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command
            .args(["-c", START, &program()])
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--no-first-run",
            ])
            .args(["--disable-dev-shm-usage", "--disable-background-networking"])
            .arg("--remote-debugging-pipe")
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let orders = child.stdin.take().unwrap();
        let mut answers = BufReader::new(child.stdout.take().unwrap());
        let (sender, messages) = mpsc::channel();
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            while answers.read_until(0, &mut bytes).is_ok_and(|read| read > 0) {
                let message = bytes.strip_suffix(&[0]).unwrap_or(&bytes);
                let Ok(message) = serde_json::from_slice(message) else {
                    break;
                };
                if sender.send(message).is_err() {
                    break;
                }
                bytes.clear();
            }
        });
        let mut browser = Self {
            child,
            orders,
            messages,
            session: None,
            orders_given: 0,
            seen: Vec::new(),
            _profile: profile,
        };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", attach);
        browser.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Runtime", "Log", "Page", "Network", "Audits"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    /// Gives an order without waiting for its answer; its number.
    fn order(&mut self, method: &str, params: Value) -> u64 {
        self.orders_given += 1;
        let mut order = json!({ "id": self.orders_given, "method": method, "params": params });
        if let Some(session) = &self.session {
            order["sessionId"] = json!(session);
        }
        let mut bytes = order.to_string().into_bytes();
        bytes.push(0);
        self.orders.write_all(&bytes).unwrap();
        self.orders_given
    }

    /// The first message, seen already or still to come, that is looked for.
    fn await_message(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        if let Some(at) = self.seen.iter().position(&wanted) {
            return self.seen.remove(at);
        }
        // Not from one message to the next: a page that lives says something.
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let message = self.messages.recv_timeout(left);
            let message = message.unwrap_or_else(|_| panic!("waited in vain for {what}"));
            if wanted(&message) {
                return message;
            }
            self.seen.push(message);
        }
    }

    fn answer(&mut self, id: u64, what: &str) -> Value {
        let answer = self.await_message(what, |message| message["id"] == id);
        assert!(answer["error"].is_null(), "{what}: {answer}");
        answer["result"].clone()
    }

    pub fn call(&mut self, method: &str, params: Value) -> Value {
        let id = self.order(method, params);
        self.answer(id, method)
    }

    /// Opens a page and waits until all of it is there.
    pub fn open(&mut self, url: &str) {
        let opened = self.call("Page.navigate", json!({ "url": url }));
        assert!(opened["errorText"].is_null(), "{url}: {opened}");
        self.loaded();
    }

    /// Waits until a page is there.
    pub fn loaded(&mut self) {
        self.await_message("a page", |message| {
            message["method"] == "Page.loadEventFired"
        });
    }

    /// What an expression comes to in the page.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        self.promise(expression).kept(self)
    }

    /// Begins an expression that may take a while, such as waiting.
    pub fn promise(&mut self, expression: &str) -> Promise {
        let params =
            json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        Promise(self.order("Runtime.evaluate", params))
    }

    /// Waits, in the page, until an expression holds; looked at whenever the page
    /// changes.
    pub fn comes_true(&mut self, expression: &str) -> Promise {
        self.promise(&format!(
            "new Promise((done) => {{
               const look = () => ({expression}) && done(true);
               new MutationObserver(look).observe(document, {{
                 childList: true, subtree: true, characterData: true, attributes: true }});
               look();
             }})"
        ))
    }

    /// Presses keys, one after the other.
    pub fn press(&mut self, keys: &[&str]) {
        for key in keys {
            for kind in ["keyDown", "keyUp"] {
                let params = json!({ "type": kind, "key": key, "text": key });
                self.call("Input.dispatchKeyEvent", params);
            }
        }
    }

    /// Everything that the browser held against its pages, and what they asked of
    /// anybody but `origin`.
    pub fn complaints(&mut self, origin: &str) -> Vec<String> {
        // What was said before this order was answered has come.
        self.evaluate("1");
        let seen = self.seen.iter();
        let bad = seen.filter(|message| {
            let params = &message["params"];
            match message["method"].as_str().unwrap_or_default() {
                "Log.entryAdded" => params["entry"]["level"] == "error",
                "Runtime.exceptionThrown" | "Page.javascriptDialogOpening" => true,
                "Runtime.consoleAPICalled" => {
                    params["type"] == "error" || params["type"] == "warning"
                }
                "Audits.issueAdded" => params["issue"]["code"] == "ContentSecurityPolicyIssue",
                "Network.requestWillBeSent" => {
                    let url = params["request"]["url"].as_str().unwrap();
                    !url.starts_with(origin)
                }
                _ => false,
            }
        });
        bad.map(ToString::to_string).collect()
    }
}

/// An expression that was begun in the page.
#[must_use]
pub struct Promise(u64);

impl Promise {
    /// What it came to.
    pub fn kept(self, browser: &mut Browser) -> Value {
        let result = browser.answer(self.0, "an expression");
        assert!(result["exceptionDetails"].is_null(), "{result}");
        result["result"]["value"].clone()
    }
}
