"""The format edits.json and how it is applied, without a worker around it."""

import json
import os
import re
import stat
import tempfile
import unittest
from dataclasses import replace
from pathlib import Path
from unittest import mock

from cogo_worker import apply, diffs, edits
from cogo_worker.errors import Refused
from cogo_worker.settings import Limits

from .support import PROGRAM

LIMITS = Limits()
BEFORE = b"one\ntwo\nthree\nfour\nfive\nsix\nseven\n"
AFTER = b"one\n2\nthree\nfour\nfive\nsix\nseven\neight"
DIGEST = "sha256:" + "0" * 64


def refusal(work):
    """The code and the words of what ``work`` is refused with."""
    try:
        work()
    except Refused as error:
        return error.code, error.message
    raise AssertionError("it was not refused")


class Format(unittest.TestCase):
    def test_the_documented_example_is_read_and_its_digest_is_right(self):
        page = (PROGRAM / "EDITS.md").read_text("utf-8")
        (example,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
        (canonical,) = re.findall(r"```text\n(.*?)\n```", page, re.DOTALL)
        document = json.loads(example)
        found = edits.parse(document, LIMITS)
        self.assertEqual([edit.name for edit in found.edits], ["src/app.py", "docs/déjà.md", "old.py"])
        self.assertEqual(edits.canonical(document).decode(), canonical)
        self.assertEqual(edits.digest_of(canonical.encode()), document["digest"])

    def test_the_schema_says_what_the_code_does(self):
        schema = json.loads((PROGRAM / "edits.schema.json").read_text())
        properties, edit = schema["properties"], schema["$defs"]["edit"]
        self.assertEqual(set(properties), set(edits.FIELDS))
        self.assertEqual(properties["version"]["const"], edits.VERSION)
        self.assertEqual(properties["edits"]["maxItems"], LIMITS.edits_count)
        self.assertEqual(schema["$defs"]["path"]["maxLength"], edits.PATH_CHARS)
        path = re.compile(schema["$defs"]["path"]["pattern"])
        for text in ("a", "a/b.py", ".github/x", "a..b", "...", ".gitignore", "../a", "a/..", "a//b", "/a",
                     "a/", "./a", ".git/x", "a/.GIT", "a\\b", "a\nb", ".git./x"):
            with self.subTest(path=text):
                try:
                    edits.parse_path(text, "here")
                    good = True
                except Refused:
                    good = False
                self.assertEqual(bool(path.search(text)), good)
        self.assertEqual(set(edit["properties"]), {"path", "content", "diff", "delete", "base_digest"})

    def test_what_is_written_can_be_read(self):
        diff = diffs.make("a", BEFORE, AFTER)
        wanted = edits.Edits(
            (
                edits.Edit(("a",), edits.Patch(diff, diffs.parse(diff, "a")), edits.digest_of(BEFORE)),
                edits.Edit(("b", "c"), edits.Write("é\0\u2028".encode())),
                edits.Edit(("d",), edits.Delete()),
            ),
            "v1", "t",
        )
        self.assertEqual(edits.parse(json.loads(edits.render(wanted, LIMITS)), LIMITS), wanted)

    def test_a_document_that_was_changed_is_found_out(self):
        document = json.loads(edits.render(edits.Edits((edits.Edit(("a",), edits.Write(b"x")),)), LIMITS))
        document["edits"][0]["content"] = "y"
        code, message = refusal(lambda: edits.parse(document, LIMITS))
        self.assertEqual(code, "edits_digest_mismatch")
        self.assertIn(document["digest"], message)

    def test_documents_of_another_shape(self):
        one = {"path": "a", "content": "x"}
        for document, code, part in (
            ([], "invalid_edits", "object"),
            ({"edits": [], "version": 2}, "invalid_edits", "version"),
            ({"edits": [], "version": True}, "invalid_edits", "version"),
            ({"edits": [], "digest": "md5:0"}, "invalid_edits", "digest"),
            ({"edits": [], "digest": DIGEST}, "edits_digest_mismatch", "digest"),
            ({"edits": [], "task_id": 5}, "invalid_edits", "task_id"),
            ({"edits": [], "base_ref": "a..b"}, "invalid_edits", "base_ref"),
            ({"edits": [one, dict(one, extra=1)]}, "invalid_edits", "edits[1]"),
            ({"edits": [dict(one, diff="x")]}, "invalid_edits", "edits[0]"),
            ({"edits": [dict(one, base_digest="x")]}, "invalid_edits", "base_digest"),
            ({"edits": [one, one]}, "invalid_edits", "edits[1]: a is edited twice"),
            ({"edits": [one, {"path": "a/b", "content": ""}]}, "invalid_edits", "edits[1]: a/b is below a"),
            ({"edits": [{"path": "a/b", "content": ""}, one]}, "invalid_edits", "edits[0]: a/b is below a"),
            ({"edits": [one] * 2001}, "edits_too_large", "2001"),
            ({"edits": [{"path": "../a", "content": ""}]}, "edit_outside_tree", "edits[0]"),
            ({"edits": [{"path": "a\u202eb", "content": ""}]}, "edit_outside_tree", "edits[0]"),
            ({"edits": [{"path": "/".join("a" * 41), "content": ""}]}, "edit_outside_tree", "edits[0]"),
        ):
            with self.subTest(document=str(document)[:80]):
                found, message = refusal(lambda: edits.parse(document, LIMITS))
                self.assertEqual(found, code)
                self.assertIn(part, message)

    def test_a_document_too_large_to_be_kept_is_not_written(self):
        small = replace(LIMITS, edits_bytes=300)
        one = edits.Edits((edits.Edit(("a",), edits.Write(b"x" * 300)),))
        self.assertEqual(refusal(lambda: edits.render(one, small))[0], "edits_too_large")


class Diffs(unittest.TestCase):
    def test_a_diff_made_is_a_diff_that_applies(self):
        cases = [b"", b"a", b"a\n", b"a\nb", b"a\r\nb\n", b"\n\n\n", BEFORE, AFTER, BEFORE * 30 + AFTER]
        for before in cases:
            for after in cases:
                if before != after:
                    with self.subTest(before=before[:20], after=after[:20]):
                        hunks = diffs.parse(diffs.make("p", before, after), "p")
                        self.assertEqual(diffs.apply(hunks, before), after)

    def test_gits_own_head_is_read(self):
        text = "diff --git a/p b/p\nindex 123..456 100644\n--- a/p\t2026\n+++ b/p\n@@ -2 +2 @@ one\n-two\n+2\n"
        self.assertEqual(diffs.apply(diffs.parse(text, "p"), BEFORE), BEFORE.replace(b"two", b"2"))

    def test_texts_that_are_no_diff_of_the_file(self):
        for text, part in (
            ("", "no hunk"),
            ("hello\n", "line 1"),
            ("--- a/q\n+++ b/q\n@@ -1 +1 @@\n-a\n+b\n", "another file"),
            ("--- /dev/null\n+++ b/p\n@@ -0,0 +1 @@\n+b\n", "creates or deletes"),
            ("new file mode 100644\n@@ -1 +1 @@\n-a\n+b\n", "line 1"),
            ("@@ -1 +1\n-a\n+b\n", "head of a hunk"),
            ("@@ -1,2 +1 @@\n-a\n+b\n", "short of its head"),
            ("@@ -1 +1 @@\n-a\n-b\n+b\n", "longer than its head"),
            ("@@ -1 +1 @@\n-a\n+b\n+c\n", "head of a hunk"),
            ("@@ -1,2 +1,2 @@\n-a\n+b\n\n", "neither space"),
            ("@@ -0 +1 @@\n-a\n+b\n", "counted from 1"),
        ):
            with self.subTest(text=text):
                with self.assertRaisesRegex(diffs.DiffError, re.escape(part)):
                    diffs.parse(text, "p")

    def test_diffs_of_another_content(self):
        for text, part in (
            ("@@ -1 +1 @@\n-two\n+2\n", "expects 'two\\n' in line 1, the file has 'one\\n'"),
            ("@@ -8 +8 @@\n-eight\n+8\n", "the file has 7 lines"),
            ("@@ -9,0 +10 @@\n+x\n", "past the end"),
            ("@@ -2 +2 @@\n-two\n+2\n@@ -1 +1 @@\n-one\n+1\n", "hunk 2 begins before"),
            ("@@ -2 +2 @@\n-two\n+2\n\\ No newline at end of file\n", "no newline"),
            ("@@ -7 +7 @@\n-seven\n\\ No newline at end of file\n+7\n", "hunk 1 expects 'seven'"),
        ):
            with self.subTest(text=text):
                hunks = diffs.parse(text, "p")
                with self.assertRaises(diffs.DiffError) as caught:
                    diffs.apply(hunks, BEFORE)
                self.assertIn(part.replace("\\n", "\\n"), str(caught.exception))


class Applied(unittest.TestCase):
    def setUp(self):
        base = tempfile.TemporaryDirectory()
        self.addCleanup(base.cleanup)
        self.base = Path(base.name)
        self.tree = self.base / "tree"
        self.tree.mkdir()
        (self.tree / "a").write_bytes(BEFORE)
        (self.tree / "b").write_bytes(b"b")
        os.chmod(self.tree / "a", 0o755)

    def apply(self, *items, limits=LIMITS):
        apply.apply(edits.parse({"edits": list(items)}, limits), self.tree, limits)

    def files(self):
        return {
            path.relative_to(self.base).as_posix(): path.read_bytes() if path.is_file() else None
            for path in self.base.rglob("*")
        }

    def test_each_kind_of_edit(self):
        self.apply(
            {"path": "a", "diff": diffs.make("a", BEFORE, AFTER), "base_digest": edits.digest_of(BEFORE)},
            {"path": "b", "delete": True, "base_digest": edits.digest_of(b"b")},
            {"path": "x/y/c", "content": "c"},
        )
        self.assertEqual(
            self.files(),
            {"tree": None, "tree/a": AFTER, "tree/x": None, "tree/x/y": None, "tree/x/y/c": b"c"},
        )
        self.assertEqual(stat.S_IMODE(os.stat(self.tree / "a").st_mode), 0o755)

    def test_a_wrong_edit_at_the_end_leaves_everything_as_it_was(self):
        good = [{"path": "a", "content": "new"}, {"path": "d/e", "content": ""}, {"path": "b", "delete": True}]
        (self.tree / "link").symlink_to(self.base)
        os.mkfifo(self.tree / "pipe")
        (self.tree / "dir").mkdir()
        before = self.files()
        for last, code in (
            ({"path": "no", "delete": True}, "edit_target_missing"),
            ({"path": "no", "diff": "@@ -1 +1 @@\n-a\n+b\n"}, "edit_target_missing"),
            ({"path": "no", "content": "", "base_digest": DIGEST}, "edit_target_missing"),
            ({"path": "c", "content": "", "base_digest": DIGEST}, "edit_base_mismatch"),
            ({"path": "c", "diff": "@@ -1 +1 @@\n-x\n+y\n"}, "edit_does_not_apply"),
            ({"path": "link", "content": ""}, "edit_outside_tree"),
            ({"path": "link/x", "content": ""}, "edit_outside_tree"),
            ({"path": "pipe", "content": ""}, "edit_outside_tree"),
            ({"path": "dir", "delete": True}, "edit_outside_tree"),
            ({"path": "c/d", "content": ""}, "edit_outside_tree"),
            ({"path": "x" * 300, "content": ""}, "invalid_edits"),
        ):
            with self.subTest(last=str(last)[:60]):
                (self.tree / "c").write_text("content\n")
                found, message = refusal(lambda: self.apply(*good, last))
                self.assertEqual(found, code)
                self.assertIn("edits[3]: ", message)
                (self.tree / "c").unlink()
                self.assertEqual(self.files(), before)

    def test_a_disk_that_fails_in_the_middle_leaves_everything_as_it_was(self):
        before = self.files()
        real, calls = os.fchmod, []

        def fail_at_third(*arguments):
            calls.append(arguments)
            if len(calls) == 3:
                raise OSError(28, "No space left on device")
            return real(*arguments)

        with mock.patch("os.fchmod", fail_at_third), self.assertRaises(OSError):
            self.apply({"path": "a", "content": "1"}, {"path": "d/e/f", "content": "2"},
                       {"path": "b", "content": "3"})
        self.assertEqual(self.files(), before)

    def test_limits_obeyed_and_violated(self):
        limits = replace(LIMITS, edited_bytes=len(BEFORE))
        self.apply({"path": "b", "content": "x" * len(BEFORE)}, limits=limits)
        code, _ = refusal(lambda: self.apply({"path": "b", "content": "x" * len(BEFORE) + "x"}, limits=limits))
        self.assertEqual(code, "edits_too_large")
        (self.tree / "a").write_bytes(BEFORE + b"x")
        code, message = refusal(lambda: self.apply({"path": "a", "delete": True}, limits=limits))
        self.assertEqual(code, "edits_too_large")
        self.assertIn("edits[0]: a is over", message)

    def test_a_hard_link_keeps_what_it_had(self):
        os.link(self.tree / "a", self.base / "outside")
        self.apply({"path": "a", "content": "new"})
        self.assertEqual((self.base / "outside").read_bytes(), BEFORE)
