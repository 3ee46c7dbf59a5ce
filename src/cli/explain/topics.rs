//! Formats that people write by hand, described where they are needed: offline,
//! and in a page each.

/// Name, what it is about, and the page.
pub(super) const ALL: &[(&str, &str, &str)] = &[
    (
        "golden-tasks",
        "the files of `plugin test`, and the task of `plugin run`",
        GOLDEN_TASKS,
    ),
    (
        "http-mock",
        "answers in place of the network, for `plugin run` and golden tasks",
        HTTP_MOCK,
    ),
];

const GOLDEN_TASKS: &str = r#"A golden task is two files, in a plugin's directory or in `tasks` below it.

NAME.task.json says what is run. Only `payload` is needed; a file without it is taken
as the payload itself.

  { "route": "code/build-test",       where the plugin handles several
    "payload": { "repo": "r" },       what the producer put on the bus
    "config": { "WORKER_URL": "http://worker:8080" },
    "http": [ … ],                    answers: `cogo-host explain http-mock`
    "limits": "production",           or "development", or { "memory_mb", "deadline_ms" }
    "deadline_ms": 5000,
    "stop": { "after_ms": 100, "reason": "cancelled" },
    "artifacts": { "http://a/spec.json": {} },       what `read-artifact` finds
    "task_id", "trace_id", "shard", "tenant", "attempt", "max_attempts" }

NAME.expect.json says what must come of it. What it does not name is not compared.

  { "outcome": "completed",           or retryable, permanent, stopped, host-fault
    "report": { "type": "build-test", "passed": true, "tests": { "$any": "number" } },
    "snippet", "url", "usage",
    "problem": { "$subset": { "code": "bad_ref" } },
    "reason": "deadline",             why it was stopped
    "artifacts": [ { "path", "content_type", "bytes", "content" } ],
    "requests": [ { "$subset": { "url": "http://worker:8080/run", "body": {} } } ] }

A plain value is meant exactly. Matchers:

  { "$subset": … }    these fields, or these elements in this order, and whatever else;
                      at every depth below
  { "$pattern": "…" } a text that matches this regular expression from beginning to end
  { "$any": "number" }  any value of a type: string, number, boolean, array, object,
                      null, or any
  { "$exact": … }     exactly this, also where it looks like a matcher or lies in a subset

Golden tasks run offline: a request that `http` has no answer for is refused.
`cogo-host plugin test --update` writes what came, and keeps each matcher that still
holds. `cogo-host plugin run FILE --task NAME.task.json > NAME.expect.json` begins one."#;

const HTTP_MOCK: &str = r#"A mock is a JSON array of rules. The first that fits a request and is not used up
answers it; nothing goes out.

  [ { "method": "POST",                              any, where absent
      "url": "http://worker:8080/run",
      "headers": { "accept": "application/json" },
      "body": { "$subset": { "repo": "r" } },        JSON where it is JSON, else a text
      "times": 1,                                    always, where absent
      "delay_ms": 20,
      "respond": { "status": 200, "headers": {}, "json": { "passed": true } } },
    { "url": { "$pattern": "http://worker:8080/.*" },
      "fail": "connection-refused" } ]

`url`, `body` and each header are expectations with the matchers of golden tasks
(`cogo-host explain golden-tasks`). `respond` has `json` or `text`, and the status 200
unless it says otherwise. `fail` is connection-refused, connection-reset,
connect-timeout, response-timeout, dns or tls.

A request must still be to an origin that the plugin declares in `egress`. One that no
rule is for is refused, and the log shows the rule to add."#;
