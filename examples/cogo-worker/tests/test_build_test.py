"""What a run answers: verdicts, refusals, sources, edits, limits."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from xml.etree import ElementTree

from .support import (
    MEET, PASSING, PROGRAM, SAMPLE, GitServer, Worker, WorkerCase, closed_port, git, is_gone, tar_of,
)

FAILING = """
import unittest
class T(unittest.TestCase):
    def test_good(self): pass
    def test_bad(self): self.assertEqual(1, 2)
    def test_broken(self): raise OSError("broken")
    @unittest.skip("not here")
    def test_skipped(self): pass
    def test_parts(self):
        for part in range(3):
            with self.subTest(part=part): self.assertEqual(part, 1)
"""


class Verdicts(WorkerCase):
    def test_the_sample_project_passes(self):
        worker = Worker(self.base / "state-sample", "--allow-root", str(SAMPLE))
        self.addCleanup(worker.stop)
        answer = worker.build_test(SAMPLE)
        self.assertEqual(answer.status, 200, answer.content)
        self.assertEqual((answer.json["passed"], answer.json["tests"]), (True, 11))
        self.assertEqual(answer.json["failures"], 0)

    def test_failing_tests_are_an_answer(self):
        answer = self.worker.build_test(self.project({"tests/test_a.py": FAILING}))
        self.assertEqual(answer.status, 200, answer.content)
        self.assertEqual(
            {name: answer.json[name] for name in ("passed", "tests", "failures")},
            {"passed": False, "tests": 5, "failures": 3},
        )
        report = self.worker.report(answer).json
        outcomes = {result["id"].rpartition(".")[2]: result["outcome"] for result in report["results"]}
        self.assertEqual(
            outcomes,
            {"test_good": "passed", "test_bad": "failed", "test_broken": "error",
             "test_skipped": "skipped", "test_parts": "failed"},
        )
        self.assertEqual((report["errors"], report["skipped"]), (1, 1))
        junit = ElementTree.fromstring(self.worker.report(answer, "junit.xml").content)
        suite = junit.find("testsuite")
        self.assertEqual((suite.get("tests"), suite.get("failures"), suite.get("errors")), ("5", "2", "1"))
        self.assertIn(b"AssertionError: 1 != 2", self.worker.report(answer, "log.txt").content)

    def test_a_module_that_cannot_be_imported_is_one_failure_among_the_others(self):
        answer = self.worker.build_test(
            self.project({"test_a.py": PASSING, "test_b.py": "import unittest, no_such_module"})
        )
        self.assertEqual(answer.status, 200, answer.content)
        self.assertEqual((answer.json["passed"], answer.json["tests"], answer.json["failures"]), (False, 3, 1))

    def test_packages_and_plain_directories_are_each_found_once(self):
        answer = self.worker.build_test(
            self.project(
                {
                    "test_top.py": PASSING,
                    "pkg/__init__.py": "",
                    "pkg/tests/__init__.py": "",
                    "pkg/tests/test_inner.py": PASSING + "import pkg\n",
                    "tests/unit/test_unit.py": PASSING + "import pkg\n",
                    "src/lib/__init__.py": "",
                    "src/lib/tests/__init__.py": "",
                    "src/lib/tests/test_lib.py": PASSING + "import lib\n",
                }
            )
        )
        self.assertEqual((answer.json.get("passed"), answer.json.get("tests")), (True, 8), answer.content)

    def test_no_tests_never_pass(self):
        skipped = "import unittest\n@unittest.skip('no')\nclass T(unittest.TestCase):\n  def test_a(self): pass"
        for files in ({"a.py": ""}, {"test_a.py": "import unittest"}, {"test_a.py": skipped}):
            with self.subTest(files=files):
                answer = self.worker.build_test(self.project(files))
                self.assertEqual((answer.status, answer.code), (422, "no_tests_ran"), answer.content)

    def test_a_run_that_ends_itself_is_a_failure(self):
        answer = self.worker.build_test(
            self.project(
                {"test_a.py": PASSING, "test_b.py": "import os, unittest\nclass U(unittest.TestCase):\n"
                                                    "  def test_exit(self): os._exit(0)\n"}
            )
        )
        self.assertEqual((answer.json["passed"], answer.json["tests"], answer.json["failures"]), (False, 3, 1))
        last = self.worker.report(answer).json["results"][-1]
        self.assertEqual((last["id"], last["outcome"]), ("test_b.U.test_exit", "error"))

    def test_tests_see_nothing_of_the_workers_environment(self):
        os.environ["COGO_TEST_SECRET"] = "hunter2"
        self.addCleanup(os.environ.pop, "COGO_TEST_SECRET")
        worker = Worker(self.base / "state-env", "--allow-root", str(self.root))
        self.addCleanup(worker.stop)
        project = self.project({"test_a.py": (
            "import os, unittest\nclass T(unittest.TestCase):\n"
            "  def test_env(self):\n"
            "    self.assertNotIn('COGO_TEST_SECRET', os.environ)\n"
            "    self.assertEqual(os.environ['COGO_TRACE_ID'], 'tr-1')\n"
            f"    self.assertNotEqual(os.environ['HOME'], {os.path.expanduser('~')!r})\n"
        )})
        answer = worker.build_test(project)
        self.assertTrue(answer.json["passed"], worker.report(answer).content)

    def test_a_run_does_not_change_what_it_was_pointed_at(self):
        project = self.project({"test_a.py": PASSING + "open('made', 'w').close()\n"})
        before = sorted(path.name for path in project.rglob("*"))
        self.assertTrue(self.worker.build_test(project).json["passed"])
        self.assertEqual(sorted(path.name for path in project.rglob("*")), before)
        self.assertEqual(list((self.state_dir / "work").iterdir()), [])

    def test_a_flood_of_output_is_cut(self):
        flood = PASSING + "for i in range(300000): print('x' * 60)\n"
        answer = self.worker.build_test(self.project({"test_a.py": flood}))
        self.assertTrue(answer.json["passed"])
        log = self.worker.report(answer, "log.txt").content
        self.assertLess(len(log), 5_000_000)
        self.assertIn(b"bytes left out here", log)
        self.assertIn(b"ended by exit status 0", log)


class Sources(WorkerCase):
    def setUp(self):
        super().setUp()
        self.repository = self.project({"test_a.py": PASSING}, "repo")
        git(self.repository, "init", "-q", "-b", "main")
        git(self.repository, "add", "-A")
        git(self.repository, "commit", "-qm", "two tests")
        git(self.repository, "tag", "-a", "v1", "-m", "v1")
        self.first = git(self.repository, "rev-parse", "HEAD")
        git(self.repository, "checkout", "-qb", "topic/more")
        (self.repository / "test_b.py").write_text(PASSING)
        git(self.repository, "add", "-A")
        git(self.repository, "commit", "-qm", "four tests")

    def count_at(self, repo, ref):
        answer = self.worker.build_test(repo, ref=ref)
        self.assertEqual(answer.status, 200, answer.content)
        return answer.json["tests"], self.worker.report(answer).json["source"]

    def test_a_git_repository_at_each_kind_of_ref(self):
        path, url = str(self.repository), self.repository.as_uri()
        for repo, ref, tests in ((path, "main", 2), (url, "v1", 2), (path, self.first, 2),
                                 (path, self.first[:10], 2), (url, "topic/more", 4)):
            with self.subTest(repo=repo, ref=ref):
                found, source = self.count_at(repo, ref)
                self.assertEqual(found, tests)
                self.assertEqual(source["kind"], "git")
                self.assertEqual(source["commit"] == self.first, tests == 2)

    def test_a_directory_without_a_ref_is_tested_as_it_is(self):
        (self.repository / "test_c.py").write_text(PASSING)
        tests, source = self.count_at(self.repository, None)
        self.assertEqual((tests, source["kind"]), (6, "directory"))

    def test_a_repository_over_http(self):
        server = GitServer(self.repository)
        self.addCleanup(server.close)
        for ref, tests in (("main", 2), (self.first[:10], 2), ("topic/more", 4)):
            with self.subTest(ref=ref):
                self.assertEqual(self.count_at(server.url, ref)[0], tests)

    def test_a_repository_on_a_plain_file_server(self):
        git(self.repository, "update-server-info")
        for path in (self.repository / ".git").rglob("*"):
            if path.is_file():
                name = path.relative_to(self.repository / ".git").as_posix()
                self.origin.put("/r.git/" + name, path.read_bytes())
        self.assertEqual(self.count_at(self.origin.url + "/r.git", "main")[0], 2)

    def test_refs_that_are_not_there(self):
        for ref in ("nowhere", "0" * 40):
            answer = self.worker.build_test(self.repository, ref=ref)
            self.assertEqual((answer.status, answer.code), (422, "ref_not_found"), answer.content)
        answer = self.worker.build_test(self.project({"test_a.py": PASSING}), ref="main")
        self.assertEqual((answer.status, answer.code), (422, "ref_not_found"))

    def test_refs_that_are_options_or_revisions(self):
        for ref in ("--upload-pack=touch /tmp/x", "-q", "main..x", "main^", "main:a", "a b", "HEAD@{1}"):
            with self.subTest(ref=ref):
                answer = self.worker.build_test(self.repository, ref=ref)
                self.assertEqual((answer.status, answer.code), (400, "invalid_request"))

    def test_repositories_that_cannot_be_had(self):
        with self.subTest("not there"):
            answer = self.worker.build_test(self.origin.url + "/none.git")
            self.assertEqual((answer.status, answer.code), (422, "repo_not_found"), answer.content)
        with self.subTest("nobody listens: worth a retry"):
            answer = self.worker.build_test(f"http://127.0.0.1:{closed_port()}/x.git")
            self.assertEqual((answer.status, answer.code), (503, "fetch_failed"), answer.content)
            self.assertTrue(answer.headers["Retry-After"].isdigit())
        for repo in ("ext::sh -c touch% /tmp/x", "git://example.org/x", "ssh://-oProxyCommand=x/y",
                     "https://user:secret@example.org/x", "git@-x:y", "https://"):
            with self.subTest(repo=repo):
                self.assertIn(self.worker.build_test(repo).status, (400, 403, 422))

    def test_paths_outside_the_roots(self):
        outside = self.base / "outside"
        outside.mkdir()
        (outside / "test_a.py").write_text(PASSING)
        link = self.root / "link"
        link.symlink_to(outside)
        for repo in (outside, link, "/etc", f"{self.root}/../outside", "../outside", outside.as_uri()):
            with self.subTest(repo=repo):
                answer = self.worker.build_test(repo)
                self.assertEqual((answer.status, answer.code), (403, "outside_roots"), answer.content)

    def test_a_hook_of_the_repository_is_not_run(self):
        hook = self.repository / ".git" / "hooks" / "post-checkout"
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\ntouch {self.base}/hooked\n")
        hook.chmod(0o755)
        self.count_at(self.repository, "main")
        self.assertFalse((self.base / "hooked").exists())

    def test_metadata_addresses_are_never_asked(self):
        for url in ("http://169.254.169.254/a.tar.gz", "http://[::ffff:169.254.169.254]/a.git",
                    "http://0.0.0.0/a.zip"):
            with self.subTest(url=url):
                answer = self.worker.build_test(url)
                self.assertEqual((answer.status, answer.code), (403, "address_not_allowed"))


class Archives(WorkerCase):
    def archive(self, content, name="a.tar.gz"):
        path = Path(self.project({})) / name
        path.write_bytes(content)
        return path

    def test_each_kind_of_archive(self):
        entries = [("demo-1.0/test_a.py", PASSING), ("demo-1.0/README", "x")]
        for name, mode in (("a.tar.gz", "w:gz"), ("a.tgz", "w:gz"), ("a.tar.bz2", "w:bz2"),
                           ("a.tar.xz", "w:xz"), ("a.tar", "w:")):
            with self.subTest(name=name):
                answer = self.worker.build_test(self.archive(tar_of(entries, mode), name))
                self.assertEqual((answer.status, answer.json.get("tests")), (200, 2), answer.content)
        path = Path(self.project({})) / "a.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in entries:
                archive.writestr(name, content)
        self.assertEqual(self.worker.build_test(path).json.get("tests"), 2)

    def test_a_downloaded_archive(self):
        url = self.origin.put("/a.tar.gz", tar_of([("d/test_a.py", PASSING)]))
        self.assertEqual(self.worker.build_test(url).json.get("tests"), 2)
        moved = self.origin.put("/moved.tar.gz", b"", 302, Location="/a.tar.gz")
        self.assertEqual(self.worker.build_test(moved).json.get("tests"), 2)

    def test_links_inside_the_archive_are_kept(self):
        content = tar_of([
            ("d/test_a.py", PASSING),
            ("d/test_b.py", {"type": b"2", "linkname": "test_a.py"}),
            ("d/test_c.py", {"type": b"1", "linkname": "d/test_a.py"}),
        ])
        self.assertEqual(self.worker.build_test(self.archive(content)).json.get("tests"), 6)

    def test_hostile_archives(self):
        evil = {
            "climbing": [("d/../../evil", "x")],
            "absolute": [("/tmp/evil", "x")],
            "backslash": [("d\\..\\..\\evil", "x")],
            "link out": [("d/l", {"type": b"2", "linkname": "../../evil"})],
            "absolute link": [("d/l", {"type": b"2", "linkname": "/etc"})],
            "write through a link": [("l", {"type": b"2", "linkname": "/tmp"}), ("l/evil", "x")],
            # By its name g is a; by the link on the way it is the parent of the root.
            "chain of links": [
                ("a/b/c", {"type": b"2", "linkname": "../../x"}),
                ("x/f", "x"),
                ("g", {"type": b"2", "linkname": "a/b/c/../.."}),
            ],
            "hard link out": [("d/l", {"type": b"1", "linkname": "/etc/passwd"})],
            "hard link climbing": [("d/l", {"type": b"1", "linkname": "../../x"})],
            "device": [("d/null", {"type": b"3", "devmajor": 1, "devminor": 3})],
            "pipe": [("d/pipe", {"type": b"6"})],
            "in each other's way": [("d/a", "x"), ("d/a/b", "x")],
        }
        for name, entries in evil.items():
            with self.subTest(name):
                answer = self.worker.build_test(self.archive(tar_of(entries)))
                self.assertEqual((answer.status, answer.code), (422, "bad_archive"), answer.content)
        self.assertFalse(Path("/tmp/evil").exists())
        self.assertFalse((self.state_dir / "evil").exists())

    def test_broken_archives(self):
        whole = tar_of([("d/test_a.py", PASSING * 200)])
        for name, content in (("no archive", b"<html>"), ("empty", b""), ("cut", whole[:60]),
                              ("garbage", b"\x1f\x8b" + os.urandom(500))):
            with self.subTest(name):
                answer = self.worker.build_test(self.archive(content))
                self.assertEqual((answer.status, answer.code), (422, "bad_archive"), answer.content)

    def test_limits_of_an_archive_obeyed_and_violated(self):
        path = self.archive(tar_of([(f"d/{number}", "x" * 100) for number in range(5)]))
        for entries, size, refused in (("5", "500", ""), ("4", "500", "entries"), ("5", "499", "bytes")):
            with self.subTest(entries=entries, size=size):
                target = self.project({})
                script = PROGRAM / "cogo_worker" / "children" / "extract.py"
                command = [sys.executable, "-I", "-S", str(script), str(path), str(target), entries, size]
                done = subprocess.run(command, capture_output=True, check=True)
                self.assertIn(refused, json.loads(done.stdout).get("refused", ""))
                self.assertEqual(target.exists(), not refused)

    def test_downloads_that_fail(self):
        busy = self.origin.put("/busy.tar.gz", b"", 503, Retry_After="7")
        answer = self.worker.build_test(busy)
        self.assertEqual((answer.status, answer.headers["Retry-After"]), (503, "7"))
        cut = self.origin.put("/cut.tar.gz", b"short", Content_Length="1000")
        self.assertEqual(self.worker.build_test(cut).status, 503)
        self.assertEqual(self.worker.build_test(self.origin.url + "/gone.tar.gz").status, 422)
        loop = self.origin.put("/loop.zip", b"", 302, Location="/loop.zip")
        self.assertEqual(self.worker.build_test(loop).code, "bad_redirect")
        huge = self.origin.put("/huge.zip", b"", Content_Length=str(1 << 40))
        self.assertEqual(self.worker.build_test(huge).code, "download_too_large")


class EditsOfARun(WorkerCase):
    def run_with(self, document, project=None, **fields):
        project = project or self.project({"test_a.py": PASSING})
        url = self.origin.put("/edits.json", document)
        return self.worker.build_test(project, edits_url=url, **fields)

    def test_edits_are_applied(self):
        broken = PASSING.replace("assertEqual(2, 2)", "assertEqual(2, 3)")
        answer = self.run_with({"edits": [
            {"path": "test_a.py", "content": broken},
            {"path": "deep/down/test_b.py", "content": PASSING},
        ]})
        self.assertEqual((answer.json["passed"], answer.json["tests"], answer.json["failures"]), (False, 4, 1))
        gone = self.project({"test_a.py": PASSING, "test_b.py": PASSING})
        answer = self.run_with({"edits": [{"path": "test_b.py", "delete": True}]}, gone)
        self.assertEqual(answer.json["tests"], 2)
        self.assertTrue((gone / "test_b.py").exists())

    def test_base_ref_is_used_where_the_request_names_no_ref(self):
        repository = self.project({"test_a.py": PASSING}, "repo")
        git(repository, "init", "-q", "-b", "main")
        git(repository, "add", "-A")
        git(repository, "commit", "-qm", "c")
        git(repository, "tag", "base")
        (repository / "test_b.py").write_text(PASSING)
        edits = {"edits": [], "base_ref": "base"}
        self.assertEqual(self.run_with(edits, repository).json["tests"], 2)

    def test_edits_never_leave_the_tree(self):
        for path in ("../evil", "/tmp/evil", "a/../../evil", "a//b", "./a", "", "a\\b", ".git/hooks/x",
                     "sub/.GIT/config"):
            with self.subTest(path=path):
                answer = self.run_with({"edits": [{"path": path, "content": "x"}]})
                self.assertEqual(answer.status, 422)
                self.assertIn(answer.code, ("edit_outside_tree", "invalid_edits"))

    def test_edits_follow_no_links(self):
        outside = self.base / "victim"
        outside.mkdir(exist_ok=True)
        (outside / "file").write_text("safe")
        project = self.project({"test_a.py": PASSING})
        (project / "dir").symlink_to(outside)
        (project / "file").symlink_to(outside / "file")
        for path in ("dir/file", "dir/new", "file"):
            with self.subTest(path=path):
                answer = self.run_with({"edits": [{"path": path, "content": "x"}]}, project)
                self.assertEqual((answer.status, answer.code), (422, "edit_outside_tree"), answer.content)
        self.assertEqual([path.name for path in outside.iterdir()], ["file"])
        self.assertEqual((outside / "file").read_text(), "safe")

    def test_documents_that_are_no_edits(self):
        for document in (b"<html>", b'{"edits": [1]}', b"[]", b'{"edits": {}}', b'{"edits": [], "x": 1}',
                         b'{"edits": [{"path": "a"}]}', b'{"edits": [{"path": "a", "content": 1}]}',
                         b'{"edits": [{"path": "a", "delete": false}]}', b'{"edits": NaN}',
                         b'{"edits": [{"path": "a", "content": "\\ud800"}]}',
                         b'{"edits": [], "base_ref": "--x"}',
                         b'{"edits": [{"path":"a","content":""},{"path":"a","content":""}]}',
                         b"[" * 100_000):
            with self.subTest(document=document[:60]):
                answer = self.run_with(document)
                self.assertEqual((answer.status, answer.code), (422, "invalid_edits"), answer.content)

    def test_deleting_what_is_not_there(self):
        answer = self.run_with({"edits": [{"path": "no/such", "delete": True}]})
        self.assertEqual((answer.status, answer.code), (422, "edit_target_missing"), answer.content)

    def test_edits_that_cannot_be_fetched(self):
        project = self.project({"test_a.py": PASSING})
        gone = self.worker.build_test(project, edits_url=self.origin.url + "/none.json")
        self.assertEqual((gone.status, gone.code), (422, "download_refused"))
        down = self.worker.build_test(project, edits_url=f"http://127.0.0.1:{closed_port()}/e.json")
        self.assertEqual((down.status, down.code), (503, "download_failed"))
        self.assertEqual(self.worker.build_test(project, edits_url="file:///etc/passwd").status, 400)


class TimeLimit(WorkerCase):
    options = ("--test-timeout-s", "3")

    def test_the_whole_process_group_is_killed(self):
        # The test leaves a process in a session of its own, then never ends.
        code = MEET.format(port=self.meeting.port) + """
import os
class T(unittest.TestCase):
    def test_before(self): pass
    def test_hangs(self):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                meet(b"grandchild")
            os._exit(0)
        os.wait()
        meet(b"test")
"""
        answer = self.worker.build_test_later(self.project({"test_a.py": code}))
        held = dict(self.meeting.await_one() for _ in range(2))
        self.assertEqual(set(held), {"test", "grandchild"})
        self.assertTrue(all([is_gone(connection) for connection in held.values()]))
        body = answer().json
        self.assertEqual((body["passed"], body["tests"], body["failures"]), (False, 2, 1), body)
        report = self.worker.report(answer()).json
        self.assertEqual(report["results"][-1]["id"], "test_a.T.test_hangs")
        self.assertIn("time limit", report["results"][-1]["message"])
        # Where it hung: the interpreter prints its stack when it is aborted.
        self.assertIn(b"in test_hangs", self.worker.report(answer(), "log.txt").content)


class MemoryLimit(WorkerCase):
    options = ("--memory-mb", "512")

    def test_obeyed_and_violated(self):
        code = ("import unittest\nclass T(unittest.TestCase):\n"
                "  def test_small(self): bytearray(32 << 20)\n"
                "  def test_large(self): bytearray(1 << 30)\n")
        answer = self.worker.build_test(self.project({"test_a.py": code}))
        self.assertEqual((answer.json["tests"], answer.json["failures"]), (2, 1), answer.content)
        results = self.worker.report(answer).json["results"]
        self.assertIn("MemoryError", next(r for r in results if r["outcome"] == "error")["message"])


class ReportsAreJson(WorkerCase):
    def test_a_refused_run_has_a_report_with_its_reason(self):
        answer = self.worker.build_test(self.project({"a.py": ""}))
        report = self.worker.report(answer).json
        self.assertEqual(report["error"]["code"], "no_tests_ran")
        self.assertEqual(json.loads(answer.content)["error"]["code"], "no_tests_ran")
