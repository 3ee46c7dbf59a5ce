//! Documents of the format, and what is wrong with others.

use super::*;

/// The example of `EDITS.md`.
const EXAMPLE: &str = r#"{
  "version": 1,
  "task_id": "task-7",
  "base_ref": "main",
  "edits": [
    {
      "path": "src/app.py",
      "diff": "--- a/src/app.py\n+++ b/src/app.py\n@@ -1,2 +1,2 @@\n def wait():\n-    return 5\n+    return 9\n",
      "base_digest": "sha256:0bbc899f588aa7aa069415e78c3f9cfc72634524a4754b4763e77c20922e26e0"
    },
    {
      "path": "docs/déjà.md",
      "content": "A\ttab, a \"quote\" and a € sign.\n"
    },
    {
      "path": "old.py",
      "delete": true
    }
  ],
  "digest": "sha256:91ef978cc31b24aed54d33cf3cb62cc919568a98386b1f38ae31ae73c4e4e0c4"
}"#;

fn refusal(document: &str) -> (&'static str, String) {
    let refused = Edits::parse(document.as_bytes()).expect_err(document);
    (refused.code(), refused.to_string())
}

fn of_path(path: &str) -> Result<Edits, InvalidEdits> {
    Edits::new(None, None, vec![Edit::new(path, Change::Delete)])
}

#[test]
fn the_example_of_the_page_is_read_and_its_digest_is_right() {
    let edits = Edits::parse(EXAMPLE.as_bytes()).expect("valid");
    assert_eq!(edits.task_id(), Some("task-7"));
    assert_eq!(edits.base_ref(), Some("main"));
    assert_eq!(edits.edits().len(), 3);
    assert_eq!(edits.edits()[2].change, Change::Delete);
    assert!(edits.digest().starts_with("sha256:91ef978c"));
    assert_eq!(Edits::parse(&edits.to_json()), Ok(edits));
}

#[test]
fn a_document_may_leave_out_what_is_optional() {
    let edits = Edits::parse(br#"{"edits":[]}"#).expect("valid");
    // Of the body without a version.
    assert_eq!(edits.digest(), digest_of(br#"{"edits":[]}"#));
}

#[test]
fn what_is_not_the_format_is_named() {
    for (document, part) in [
        ("", "not edits.json: EOF"),
        ("[]", "not edits.json"),
        ("{}", "missing field `edits`"),
        (r#"{"edits":null}"#, "invalid type: null"),
        (r#"{"edits":[],"author":"x"}"#, "unknown field `author`"),
        (r#"{"edits":[],"edits":[]}"#, "duplicate field `edits`"),
        (r#"{"edits":[],"task_id":null}"#, "invalid type: null"),
        (r#"{"edits":[],"version":2}"#, "version must be 1"),
        (
            r#"{"edits":[],"version":1.0}"#,
            "invalid type: floating point",
        ),
        (r#"{"edits":[],"task_id":""}"#, "task_id has not 1 to 256"),
        (
            r#"{"edits":[],"base_ref":"--upload-pack"}"#,
            "base_ref is not",
        ),
        (r#"{"edits":[],"digest":"sha256:00"}"#, "digest is not"),
        (r#"{"edits":[7]}"#, "edits[0]: invalid type: integer"),
        (
            r#"{"edits":[{"content":""}]}"#,
            "edits[0]: missing field `path`",
        ),
        (r#"{"edits":[{"path":"a"}]}"#, "edits[0]: beside `path`"),
        (
            r#"{"edits":[{"path":"a","delete":false}]}"#,
            "edits[0]: beside `path`",
        ),
        (
            r#"{"edits":[{"path":"a","delete":true,"content":""}]}"#,
            "edits[0]: beside `path`",
        ),
        (
            r#"{"edits":[{"path":"a","mode":7,"content":""}]}"#,
            "edits[0]: unknown field `mode`",
        ),
        (
            r#"{"edits":[{"path":"a","content":"\ud800"}]}"#,
            "edits[0]: ",
        ),
        (
            r#"{"edits":[{"path":"a","content":"","base_digest":"x"}]}"#,
            "edits[0]: base_digest",
        ),
        (
            r#"{"edits":[{"path":"a","content":""},{"path":"a","delete":true}]}"#,
            "edits[1]: `a` is edited twice, first in edits[0]",
        ),
        (
            r#"{"edits":[{"path":"a/b/c","content":""},{"path":"a/b","content":""}]}"#,
            "edits[0]: `a/b/c` is below `a/b`, which edits[1] says is a file",
        ),
    ] {
        let (code, message) = refusal(document);
        assert_eq!(code, "invalid_edits", "{document}");
        assert!(message.contains(part), "{document}: {message}");
    }
}

#[test]
fn paths_that_leave_the_tree_are_refused() {
    let deep = vec!["a"; 41].join("/");
    let long = "a".repeat(1_025);
    for path in [
        "",
        "/etc/passwd",
        "..",
        "../x",
        "a/../../x",
        "a//b",
        "a/",
        "./a",
        "a\\b",
        "a\nb",
        "a\0b",
        "a\u{202e}b",
        "a\u{a0}b",
        ".git/config",
        "sub/.GIT/hooks/x",
        ".git. /x",
        &deep,
        &long,
    ] {
        let refused = of_path(path).expect_err(path);
        assert_eq!(refused.code(), "edit_outside_tree", "{path:?}");
        assert!(refused.to_string().starts_with("edits[0]: "), "{refused}");
    }
    for path in [
        "a",
        "a/b c/ü.txt",
        "e\u{301}.md",
        ".github/x",
        "..a/b..",
        "it's \"x\".md",
    ] {
        assert!(of_path(path).is_ok(), "{path:?}");
    }
}

#[test]
fn a_diff_is_one_of_its_file_and_as_long_as_it_says() {
    let check = |text: &str| diff::check(text, "src/a.py");
    for text in [
        "@@ -1 +1 @@\n-a\n+b\n",
        "diff --git a/src/a.py b/src/a.py\nindex 1..2 100644\n--- a/src/a.py\t2026\n+++ src/a.py\n@@ -1,2 +1,2 @@ def f\n a\n-b\n+c\n",
        "@@ -1 +1 @@\n-a\n\\ No newline at end of file\n+b\n\\ No newline at end of file\n",
        "@@ -0,0 +1 @@\n+a\n@@ -3 +4,0 @@\n-c",
    ] {
        assert_eq!(check(text), Ok(()), "{text}");
    }
    for (text, part) in [
        ("", "line 1 of the diff is no part"),
        ("--- a/src/a.py\n", "has no hunk"),
        ("--- /dev/null\n@@ -0,0 +1 @@\n+a", "creates or deletes"),
        (
            "--- a/src/b.py\n@@ -1 +1 @@\n-a\n+b",
            "names another file, \"a/src/b.py\"",
        ),
        (
            "rename from x\n@@ -1 +1 @@\n-a\n+b",
            "no part of a unified diff",
        ),
        ("@@ -1 +1\n-a\n+b", "no head of a hunk"),
        ("@@ -1,+1 @@\n-a\n+b", "no head of a hunk"),
        ("@@ -0 +1 @@\n-a\n+b", "counted from 1"),
        ("@@ -1,2 +1 @@\n-a\n+b", "1 lines short"),
        ("@@ -1 +1,2 @@\n-a\n-b\n", "longer than its head"),
        ("@@ -1 +1 @@\n-a\nb\n", "begins with neither"),
        ("@@ -1 +1 @@\n-a\n+b\ntail", "no head of a hunk: \"tail\""),
    ] {
        let complaint = check(text).expect_err(text);
        assert!(complaint.contains(part), "{text}: {complaint}");
    }
}

#[test]
fn a_document_that_was_changed_or_is_too_large_has_its_own_code() {
    let changed = EXAMPLE.replace("return 9", "return 8");
    let (code, message) = refusal(&changed);
    assert_eq!(code, "edits_digest_mismatch");
    assert!(message.contains("sha256:91ef978c"), "{message}");

    let item = |at: usize| Edit::new(format!("f{at}"), Change::Delete);
    let many = Edits::new(None, None, (0..=MAX_EDITS).map(item).collect());
    assert_eq!(
        many.map_err(|refused| refused.code()),
        Err("edits_too_large")
    );

    let big = Change::Content("x".repeat(MAX_BYTES));
    let big = Edits::new(None, None, vec![Edit::new("a", big)]);
    assert_eq!(
        big.map_err(|refused| refused.code()),
        Err("edits_too_large")
    );
    let bytes = vec![b' '; MAX_BYTES + 1];
    let read = Edits::parse(&bytes).map_err(|refused| refused.code());
    assert_eq!(read, Err("edits_too_large"));
}
