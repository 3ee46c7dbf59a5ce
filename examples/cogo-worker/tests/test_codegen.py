"""Codegen: what a specification becomes, and what is made of one that is none."""

import os
import unittest

from cogo_worker import spec
from cogo_worker.edits import canonical, digest_of
from cogo_worker.errors import Refused

from .support import PASSING, SAMPLE, Worker, WorkerCase, closed_port, git, release

TEXT = """
# a comment
replace "wait 5" with "wait \\"9\\"" in docs/a.md
replace all colour with color in b
create "with space.py" with block
```python
print("hello")
```
add block to c.py

````
```
inner
````
append "end\\n" to d
delete e
"""
RULES = (
    spec.Replace(("docs", "a.md"), b"wait 5", b'wait "9"', False),
    spec.Replace(("b",), b"colour", b"color", True),
    spec.Create(("with space.py",), b'print("hello")\n'),
    spec.Append(("c.py",), b"```\ninner\n", True),
    spec.Append(("d",), b"end\n", False),
    spec.Remove(("e",)),
)


class Rules(unittest.TestCase):
    def test_text_and_json_say_the_same(self):
        structured = [
            {"replace": "wait 5", "with": 'wait "9"', "in": "docs/a.md"},
            {"replace": "colour", "with": "color", "in": "b", "all": True},
            {"create": "with space.py", "content": 'print("hello")\n'},
            {"add": "```\ninner\n", "to": "c.py"},
            {"append": "end\n", "to": "d"},
            {"delete": "e"},
        ]
        for given in (TEXT, TEXT.replace("\n", "\r\n"), structured, {"rules": structured}):
            with self.subTest(given=type(given)):
                self.assertEqual(spec.parse_rules(given), RULES)

    def test_specs_that_are_not_understood(self):
        for given, part in (
            ("Please fix the bug.", "line 1 of spec is no rule"),
            ("delete a\n\nmake it faster", "line 3 of spec is no rule"),
            ("replace a with", "line 1 of spec ends where a text"),
            ("replace a by b in c", "lacks the word `with`"),
            ("replace a b with c in d", "lacks the word `with`"),
            ('replace "a with b in c', "without its partner"),
            ('replace "\\q" with b in c', "cannot be read"),
            ('replace "" with b in c', "empty text"),
            ("delete a b", "goes on after its rule"),
            ("create a with block", "none follows"),
            ("create a with block\n```\nx", "has no end"),
            ("delete ../x", "not a plain path"),
            ("delete .git/config", ".git"),
            ('create a with "\\ud800"', "not valid Unicode"),
            ([{"replace": "a"}], "rule 1 of spec has no known set of fields"),
            ([{"delete": "a"}, {"delete": 5}], "rule 2 of spec"),
            ([{"replace": "a", "with": "b", "in": "c", "all": "yes"}], "`all` must be"),
            ([5], "rule 1 of spec is not an object"),
            ({"rule": []}, "neither text nor"),
            (7, "neither text nor"),
            ("# nothing\n", "has no rule"),
            ([{"delete": "a"}] * 1001, "1001 rules"),
        ):
            with self.subTest(given=str(given)[:60]):
                with self.assertRaises(Refused) as caught:
                    spec.parse_rules(given)
                self.assertEqual((caught.exception.status, caught.exception.code), (400, "invalid_spec"))
                self.assertIn(part, caught.exception.message)
                self.assertTrue(caught.exception.hint)

    def evaluate(self, text, **files):
        found = spec.evaluate(
            spec.parse_rules(text), lambda path, _: files.get("/".join(path).replace(".", "_"))
        )
        return {"/".join(file.path): file.after for file in found}

    def test_rules_work_on_what_the_rules_before_them_left(self):
        after = self.evaluate(
            "replace a with b in f\nreplace b with c in f\ncreate g with x\nappend y to g\n"
            "create h with z\ndelete h\nadd n to i\nadd n to j\nadd n to k",
            f=b"-a-", i=b"line", j=b"line\n", k=b"",
        )
        self.assertEqual(
            after, {"f": b"-c-", "g": b"xy", "i": b"line\n\nn", "j": b"line\n\nn", "k": b"n"}
        )

    def test_rules_that_do_not_apply(self):
        for text, part in (
            ("replace x with y in f", "does not hold"),
            ("replace a with y in f", "2 times"),
            ("replace a with y in g", "no file g"),
            ("create f with x", "exists"),
            ("delete g", "no file g"),
            ("append x to g", "no file g"),
            ("delete f\nappend x to f", "rule 2: there is no file f"),
        ):
            with self.subTest(text=text):
                with self.assertRaises(Refused) as caught:
                    self.evaluate(text, f=b"aa")
                self.assertEqual((caught.exception.status, caught.exception.code), (422, "rule_does_not_apply"))
                self.assertIn(part, caught.exception.message)


class Generate(WorkerCase):
    def setUp(self):
        super().setUp()
        self.repository = self.project({"app.py": "def two():\n    return 2\n", "test_a.py": PASSING}, "repo")
        git(self.repository, "init", "-q", "-b", "main")
        git(self.repository, "add", "-A")
        git(self.repository, "commit", "-qm", "c")
        self.commit = git(self.repository, "rev-parse", "HEAD")

    def edits(self, answer):
        self.assertEqual(answer.status, 200, answer.content)
        return self.worker.fetch(answer.json["edits_url"]).json

    def test_the_report_and_its_edits(self):
        answer = self.worker.codegen(
            'replace "return 2" with "return 3" in app.py\ncreate new.txt with "n\\n"\ndelete test_a.py',
            repo=str(self.repository), ref="main", style="ignored",
        )
        document = self.edits(answer)
        self.assertEqual(set(answer.json), {"edits_url", "files", "duration_ms", "report_url"})
        self.assertEqual(answer.json["files"], 3)
        self.assertEqual((document["version"], document["task_id"]), (1, "t-1"))
        self.assertEqual(document["base_ref"], self.commit)
        self.assertEqual(document["digest"], digest_of(canonical(document)))
        change, new, gone = document["edits"]
        self.assertEqual(change["base_digest"], digest_of(b"def two():\n    return 2\n"))
        self.assertEqual(new, {"path": "new.txt", "content": "n\n"})
        self.assertEqual((gone["path"], gone["delete"]), ("test_a.py", True))
        report = self.worker.report(answer).json
        self.assertEqual(report["source"], {"kind": "git", "commit": self.commit})
        self.assertEqual([edit["kind"] for edit in report["edits"]], ["write", "write", "delete"])

    def test_a_small_change_of_a_large_file_is_a_diff_and_applies_later(self):
        lines = "".join(f"VALUE_{number} = {number}\n" for number in range(500))
        (self.repository / "app.py").write_text(lines)
        git(self.repository, "commit", "-qam", "large")
        repo = self.repository.as_uri()
        answer = self.worker.codegen("replace VALUE_250 with MIDDLE in app.py", repo=repo, ref="main")
        (edit,) = self.edits(answer)["edits"]
        self.assertIn("-VALUE_250 = 250\n+MIDDLE = 250\n", edit["diff"])
        check = "import unittest, app\nclass T(unittest.TestCase):\n  def test_m(self): self.assertEqual(app.MIDDLE, 250)\n"
        (self.repository / "test_a.py").write_text(check)
        git(self.repository, "commit", "-qam", "another commit, the same file")
        url = answer.json["edits_url"]
        tested = self.worker.build_test(repo, ref="main", edits_url=url)
        self.assertEqual((tested.status, tested.json.get("passed")), (200, True), tested.content)
        # Without a ref it is the commit that the edits were made against.
        based = self.worker.build_test(repo, edits_url=url)
        self.assertEqual(self.worker.report(based).json["source"]["commit"], self.edits(answer)["base_ref"])
        (self.repository / "app.py").write_text("x = 1\n")
        git(self.repository, "commit", "-qam", "another file")
        stale = self.worker.build_test(repo, ref="main", edits_url=url)
        self.assertEqual((stale.status, stale.code), (422, "edit_base_mismatch"), stale.content)

    def test_edits_in_the_spec_are_checked_and_passed_on(self):
        wanted = {"edits": [{"path": "app.py", "diff": "@@ -2 +2 @@\n-    return 2\n+    return 3\n"}]}
        document = self.edits(self.worker.codegen(wanted, repo=str(self.repository), ref="main"))
        self.assertEqual(document["edits"], wanted["edits"])
        wanted["edits"][0]["diff"] = "@@ -1 +1 @@\n-    return 2\n+    return 3\n"
        wrong = self.worker.codegen(wanted, repo=str(self.repository), ref="main")
        self.assertEqual((wrong.status, wrong.code), (422, "edit_does_not_apply"), wrong.content)
        unchecked = self.edits(self.worker.codegen(wanted))
        self.assertNotIn("base_ref", unchecked)
        broken = self.worker.codegen({"edits": [{"path": "../x", "content": ""}]})
        self.assertEqual((broken.status, broken.code), (400, "edit_outside_tree"))

    def test_requests_that_lack_something_say_what(self):
        for fields, status, code, part in (
            ({"spec": None}, 400, "invalid_spec", "spec is missing"),
            ({"spec": ""}, 400, "invalid_spec", "spec is missing"),
            ({"spec": "make it better"}, 400, "invalid_spec", "no rule"),
            ({"spec": "delete a"}, 400, "repo_required", "repo is missing"),
            ({"spec": "create a with b", "ref": "main"}, 400, "invalid_request", "without repo"),
            ({"spec": "create a with b", "repo": "/etc"}, 403, "outside_roots", "outside"),
            ({"spec": "create a with b", "task_id": None}, 400, "invalid_request", "task_id"),
            ({"spec": 'replace "2" with "2" in app.py', "repo": str(self.repository)}, 422, "nothing_to_do", "no file"),
            ({"spec": "create a with b", "repo": f"http://127.0.0.1:{closed_port()}/x.git"}, 503, "fetch_failed", ""),
        ):
            with self.subTest(fields=fields):
                answer = self.worker.post(
                    dict({"task_id": "t", "trace_id": "x"}, **fields), path="/run/codegen"
                )
                self.assertEqual((answer.status, answer.code), (status, code), answer.content)
                self.assertIn(part, answer.json["error"]["message"])

    def test_links_and_other_files_are_left_alone(self):
        os.symlink("/etc/passwd", self.repository / "link")
        (self.repository / "binary").write_bytes(b"\xff\xfe a")
        for text, code in (
            ("append x to link", "edit_outside_tree"),
            ("append x to link/y", "edit_outside_tree"),
            ("append x to binary", "not_text"),
        ):
            with self.subTest(text=text):
                answer = self.worker.codegen(text, repo=str(self.repository))
                self.assertEqual((answer.status, answer.code), (422, code), answer.content)

    def test_keys_join_and_replay_as_for_a_build_test(self):
        spec_text = "create a with b"
        first = self.worker.codegen(spec_text, "codegen-key")
        again = self.worker.codegen(spec_text, "codegen-key", trace_id="other")
        self.assertEqual((again.json, again.headers["x-cogo-run-how"]), (first.json, "replayed"))
        other = self.worker.codegen("create a with c", "codegen-key")
        self.assertEqual((other.status, other.code), (422, "idempotency_key_reused"))
        held = self.held_project()
        running = self.worker.build_test_later(held, "mixed-key")
        _, connection = self.meeting.await_one()
        mixed = self.worker.codegen(spec_text, "mixed-key")
        self.assertEqual((mixed.status, mixed.code), (422, "idempotency_key_reused"))
        release(connection)
        self.assertEqual(running().status, 200)

    def test_the_same_spec_gives_the_same_bytes(self):
        answers = [self.worker.codegen(TEXT_NEW, repo=str(self.repository)) for _ in range(2)]
        contents = {self.worker.fetch(answer.json["edits_url"]).content for answer in answers}
        self.assertEqual(len(contents), 1)


TEXT_NEW = "create z with 1\ncreate a with 2\nadd three to app.py\n"


class TheSampleProject(WorkerCase):
    """From a specification to a verdict: one that breaks the project, one that fixes it."""

    GOOD, WRONG = "min(attempt - 1, 60)", "min(attempt, 60)"

    def test_broken_and_mended(self):
        worker = Worker(self.base / "state-sample", "--allow-root", str(SAMPLE.parent))
        self.addCleanup(worker.stop)
        breaking = f'replace "{self.GOOD}" with "{self.WRONG}" in pacing/backoff.py'
        self.assertFalse(self.verdict(worker, "sample-project", breaking))
        broken = self.project({}, "broken")
        for path in SAMPLE.rglob("*.py"):
            target = broken / path.relative_to(SAMPLE)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(path.read_text().replace(self.GOOD, self.WRONG))
        mending = f'replace "{self.WRONG}" with "{self.GOOD}" in pacing/backoff.py'
        self.assertTrue(self.verdict(self.worker, str(broken), mending))

    def verdict(self, worker, repo, text):
        made = worker.codegen(text, repo=repo)
        self.assertEqual(made.status, 200, made.content)
        tested = worker.build_test(repo, edits_url=made.json["edits_url"])
        self.assertEqual(tested.status, 200, tested.content)
        self.assertEqual(tested.json["tests"], 11)
        return tested.json["passed"]
