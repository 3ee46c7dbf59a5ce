//! A guest that sends requests by hand, through `wasi:http/outgoing-handler`.

use super::{Guest, RESULT};

const TYPES: &str = "wasi:http/types@0.2.12";

/// Where the guest keeps things. The texts below use the same addresses: 52000
/// for what calls answer, 2064 for the exit code, 2088 for the duration.
const AUTHORITY: u32 = 50_000;
const PATH: u32 = 51_000;
const ANSWER: u32 = 52_000;
/// What it tells: the report's exit code, and its duration at 2088.
const EXIT_CODE: u32 = RESULT + 16;

/// What a guest asks for.
#[derive(Clone)]
pub struct Fetch {
    pub https: bool,
    pub authority: String,
    pub path: String,
    /// How many times, one after the other.
    pub times: u32,
    /// Of the body, or none.
    pub body: Option<u32>,
    /// In milliseconds.
    pub first_byte: Option<u64>,
    pub between_bytes: Option<u64>,
    /// Ends when the response's head is there, or does not even wait for that.
    pub until: Until,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Until {
    Body,
    Head,
    Sent,
}

impl Fetch {
    pub fn get(authority: &str, path: &str) -> Self {
        Self {
            https: false,
            authority: authority.to_owned(),
            path: path.to_owned(),
            times: 1,
            body: None,
            first_byte: None,
            between_bytes: None,
            until: Until::Body,
        }
    }

    /// A guest whose report's exit code is the status of the last response, or
    /// less than zero for an error: -1 minus the number of its `error-code`, or -100
    /// where a body broke off without one. The
    /// report's duration is how many bytes of bodies it read.
    pub fn guest(&self) -> Guest {
        let scheme = u32::from(self.https);
        let option = |name: &str, millis: Option<u64>| match millis {
            None => String::new(),
            Some(millis) => format!(
                "(drop (call ${name} (local.get $options) (i32.const 1) (i64.const {})))",
                millis * 1_000_000
            ),
        };
        let send_body = match self.body {
            None => String::new(),
            Some(bytes) => SEND_BODY.replace("BYTES", &bytes.to_string()),
        };
        let receive = match self.until {
            Until::Sent => "",
            Until::Head => AWAIT,
            Until::Body => &format!("{AWAIT} {READ}"),
        };
        let execute = format!(
            "(local $n i32) (local $request i32) (local $options i32) (local $future i32)
             (local $response i32) (local $body i32) (local $stream i32) (local $left i32)
             (local $chunk i32)
             (loop $again
               (block $next
                (local.set $request (call $new_request (call $new_fields)))
                {method}
                (drop (call $set_scheme (local.get $request)
                    (i32.const 1) (i32.const {scheme}) (i32.const 0) (i32.const 0)))
                (if (call $set_authority (local.get $request)
                    (i32.const 1) (i32.const {AUTHORITY}) (i32.const {authority})) (then unreachable))
                (if (call $set_path (local.get $request)
                    (i32.const 1) (i32.const {PATH}) (i32.const {path})) (then unreachable))
                (local.set $options (call $new_options))
                {first_byte} {between_bytes}
                {open_body}
                (call $handle (local.get $request) (i32.const 1) (local.get $options) (i32.const {ANSWER}))
                (if (i32.load8_u (i32.const {ANSWER})) (then
                    (i32.store (i32.const {EXIT_CODE})
                        (i32.sub (i32.const -1) (i32.load8_u (i32.const {payload}))))
                    (br $next)))
                (local.set $future (i32.load (i32.const {payload})))
                {send_body}
                {receive}
               )
               (local.set $n (i32.add (local.get $n) (i32.const 1)))
               (br_if $again (i32.lt_u (local.get $n) (i32.const {times}))))
             (i32.const {RESULT})",
            authority = self.authority.len(),
            path = self.path.len(),
            payload = ANSWER + 8,
            times = self.times,
            method = if self.body.is_some() {
                // `post` is case 2.
                "(drop (call $set_method (local.get $request) (i32.const 2) (i32.const 0) (i32.const 0)))"
            } else {
                ""
            },
            open_body = if self.body.is_some() { OPEN_BODY } else { "" },
            first_byte = option("set_first_byte", self.first_byte),
            between_bytes = option("set_between_bytes", self.between_bytes),
        );
        let mut guest = Guest::new(&execute).items(&imports()).tail(&format!(
            r#"(data (i32.const {AUTHORITY}) "{}") (data (i32.const {PATH}) "{}")"#,
            self.authority, self.path
        ));
        guest.memory = "300".to_owned();
        guest
    }
}

/// Waits for the response; ends this request on an error.
const AWAIT: &str = "
    (call $block (call $subscribe (local.get $future)))
    (call $get (local.get $future) (i32.const 52000))
    ;; option<result<result<response, error-code>>>: some, ok, then the inner one.
    (if (i32.ne (i32.load8_u (i32.const 52000)) (i32.const 1)) (then unreachable))
    (if (i32.load8_u (i32.const 52008)) (then unreachable))
    (if (i32.load8_u (i32.const 52016)) (then
        (i32.store (i32.const 2064) (i32.sub (i32.const -1) (i32.load8_u (i32.const 52024))))
        (br $next)))
    (local.set $response (i32.load (i32.const 52024)))
    (i32.store (i32.const 2064) (call $status (local.get $response)))";

/// Reads the body to its end, and drops what the request took.
const READ: &str = "
    (call $consume (local.get $response) (i32.const 52000))
    (local.set $body (i32.load (i32.const 52004)))
    (call $stream (local.get $body) (i32.const 52000))
    (local.set $stream (i32.load (i32.const 52004)))
    (block $ended (loop $more
        (call $read (local.get $stream) (i64.const 65536) (i32.const 52000))
        (if (i32.load8_u (i32.const 52000)) (then
            ;; last-operation-failed is case 0, closed is case 1.
            (if (i32.eqz (i32.load8_u (i32.const 52004))) (then
                (call $error_code (i32.load (i32.const 52008)) (i32.const 53000))
                (i32.store (i32.const 2064) (select
                    (i32.sub (i32.const -1) (i32.load8_u (i32.const 53008)))
                    (i32.const -100)
                    (i32.load8_u (i32.const 53000))))))
            (br $ended)))
        (i64.store (i32.const 2088) (i64.add (i64.load (i32.const 2088))
            (i64.extend_i32_u (i32.load (i32.const 52008)))))
        ;; What was read is not kept.
        (global.set $mark (i32.const 1048576))
        (br $more)))
    (call $drop_stream (local.get $stream))
    (call $drop_body (local.get $body))
    (call $drop_response (local.get $response))";

const OPEN_BODY: &str = "
    (call $out_body (local.get $request) (i32.const 52000))
    (local.set $body (i32.load (i32.const 52004)))
    (call $write_stream (local.get $body) (i32.const 52000))
    (local.set $stream (i32.load (i32.const 52004)))";

/// Writes zeros, 4 KiB at a time, until all are written or nobody takes more.
const SEND_BODY: &str = "
    (local.set $left (i32.const BYTES))
    (block $written (loop $more
        (br_if $written (i32.eqz (local.get $left)))
        (local.set $chunk (select (i32.const 4096) (local.get $left)
            (i32.gt_u (local.get $left) (i32.const 4096))))
        (call $write (local.get $stream) (i32.const 2097152) (local.get $chunk) (i32.const 52000))
        (br_if $written (i32.load8_u (i32.const 52000)))
        (local.set $left (i32.sub (local.get $left) (local.get $chunk)))
        (br $more)))
    (call $drop_write (local.get $stream))
    (call $finish (local.get $body) (i32.const 0) (i32.const 0) (i32.const 52000))";

fn imports() -> String {
    let mut text = String::new();
    let mut import = |module: &str, name: &str, func: &str| {
        text.push_str(&format!("(import \"{module}\" \"{name}\" (func {func}))\n"));
    };
    for (name, func) in [
        ("[constructor]fields", "$new_fields (result i32)"),
        (
            "[constructor]outgoing-request",
            "$new_request (param i32) (result i32)",
        ),
        ("[constructor]request-options", "$new_options (result i32)"),
        (
            "[method]request-options.set-first-byte-timeout",
            "$set_first_byte (param i32 i32 i64) (result i32)",
        ),
        (
            "[method]request-options.set-between-bytes-timeout",
            "$set_between_bytes (param i32 i32 i64) (result i32)",
        ),
        (
            "[method]outgoing-request.set-method",
            "$set_method (param i32 i32 i32 i32) (result i32)",
        ),
        (
            "[method]outgoing-request.set-scheme",
            "$set_scheme (param i32 i32 i32 i32 i32) (result i32)",
        ),
        (
            "[method]outgoing-request.set-authority",
            "$set_authority (param i32 i32 i32 i32) (result i32)",
        ),
        (
            "[method]outgoing-request.set-path-with-query",
            "$set_path (param i32 i32 i32 i32) (result i32)",
        ),
        ("[method]outgoing-request.body", "$out_body (param i32 i32)"),
        (
            "[method]outgoing-body.write",
            "$write_stream (param i32 i32)",
        ),
        (
            "[static]outgoing-body.finish",
            "$finish (param i32 i32 i32 i32)",
        ),
        (
            "[method]future-incoming-response.subscribe",
            "$subscribe (param i32) (result i32)",
        ),
        (
            "[method]future-incoming-response.get",
            "$get (param i32 i32)",
        ),
        (
            "[method]incoming-response.status",
            "$status (param i32) (result i32)",
        ),
        (
            "[method]incoming-response.consume",
            "$consume (param i32 i32)",
        ),
        ("[method]incoming-body.stream", "$stream (param i32 i32)"),
        ("[resource-drop]incoming-body", "$drop_body (param i32)"),
        (
            "[resource-drop]incoming-response",
            "$drop_response (param i32)",
        ),
        ("http-error-code", "$error_code (param i32 i32)"),
    ] {
        import(TYPES, name, func);
    }
    import(
        "wasi:http/outgoing-handler@0.2.12",
        "handle",
        "$handle (param i32 i32 i32 i32)",
    );
    import(
        "wasi:io/poll@0.2.12",
        "[method]pollable.block",
        "$block (param i32)",
    );
    let streams = "wasi:io/streams@0.2.12";
    import(
        streams,
        "[method]input-stream.blocking-read",
        "$read (param i32 i64 i32)",
    );
    import(
        streams,
        "[method]output-stream.blocking-write-and-flush",
        "$write (param i32 i32 i32 i32)",
    );
    import(
        streams,
        "[resource-drop]output-stream",
        "$drop_write (param i32)",
    );
    import(
        streams,
        "[resource-drop]input-stream",
        "$drop_stream (param i32)",
    );
    text
}
