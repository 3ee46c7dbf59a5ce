"""Idempotency keys, restarts, the limit of runs at a time, stopping."""

import signal
import subprocess
import sys
from http.client import HTTPException

from .support import PASSING, PROGRAM, Worker, WorkerCase, is_gone, later, release


class Keys(WorkerCase):
    def test_a_run_in_progress_is_joined(self):
        project = self.held_project()
        first = self.worker.build_test_later(project, "join")
        _, connection = self.meeting.await_one()
        second = self.worker.build_test_later(project, "join")
        self.worker.await_log("how=joined")
        release(connection)
        self.assertEqual(first().json, second().json)
        self.assertEqual(first().headers["x-cogo-run-how"], "started")
        self.assertEqual(second().headers["x-cogo-run-how"], "joined")

    def test_a_finished_run_is_replayed(self):
        project = self.project({"test_a.py": PASSING})
        first = self.worker.build_test(project, "replay")
        (project / "test_a.py").unlink()
        again = self.worker.build_test(project, "replay", trace_id="another")
        self.assertEqual((again.status, again.json), (200, first.json))
        self.assertEqual(again.headers["x-cogo-run-how"], "replayed")

    def test_a_refused_run_is_replayed(self):
        project = self.project({"a.py": ""})
        first = self.worker.build_test(project, "refused")
        (project / "test_a.py").write_text(PASSING)
        self.assertEqual(self.worker.build_test(project, "refused").json, first.json)

    def test_a_fault_of_the_moment_is_not(self):
        url = self.origin.put("/e.json", b"", 500)
        project = self.project({"test_a.py": PASSING})
        self.assertEqual(self.worker.build_test(project, "moment", edits_url=url).status, 503)
        self.origin.put("/e.json", {"edits": []})
        self.assertEqual(self.worker.build_test(project, "moment", edits_url=url).status, 200)

    def test_without_a_key_every_request_is_a_run(self):
        project = self.project({"test_a.py": PASSING})
        urls = {self.worker.build_test(project).json["report_url"] for _ in range(2)}
        self.assertEqual(len(urls), 2)

    def test_a_key_stands_for_one_request(self):
        project = self.project({"test_a.py": PASSING})
        self.worker.build_test(project, "same")
        other = self.worker.build_test(project, "same", task_id="t-2")
        self.assertEqual((other.status, other.code), (422, "idempotency_key_reused"))
        held = self.held_project()
        running = self.worker.build_test_later(held, "same-running")
        _, connection = self.meeting.await_one()
        other = self.worker.build_test(project, "same-running")
        self.assertEqual((other.status, other.code), (422, "idempotency_key_reused"))
        release(connection)
        self.assertEqual(running().status, 200)

    def test_unusable_keys(self):
        project = self.project({"test_a.py": PASSING})
        for key in ("", "a b", "x" * 256):
            with self.subTest(key=key):
                self.assertEqual(self.worker.build_test(project, key).status, 400)


class Restart(WorkerCase):
    def test_a_finished_run_is_replayed_by_the_next_worker(self):
        project = self.project({"test_a.py": PASSING})
        first = self.worker.build_test(project, "k")
        self.assertEqual(self.worker.stop(), 0)
        (project / "test_a.py").unlink()
        type(self).worker = self.start_worker()
        again = self.worker.build_test(project, "k")
        self.assertEqual(again.headers["x-cogo-run-how"], "replayed")
        same = [name for name in first.json if name != "report_url"]
        self.assertEqual([again.json[n] for n in same], [first.json[n] for n in same])
        # The port is another one, and the address of the report with it.
        self.assertIn(f":{self.worker.port}/", again.json["report_url"])
        self.assertEqual(self.worker.report(again).json["tests"], 2)

    def test_a_run_that_was_killed_with_its_worker_runs_again(self):
        project = self.held_project()
        lost = self.worker_request_that_may_fail(project)
        _, connection = self.meeting.await_one()
        self.worker.stop(signal.SIGKILL)
        # Nobody was left to kill it but the supervisor, whose lifeline closed.
        self.assertTrue(is_gone(connection))
        self.assertEqual(lost(), "cut")
        type(self).worker = self.start_worker()
        answer = self.worker.build_test_later(project, "killed")
        _, connection = self.meeting.await_one()
        release(connection)
        self.assertTrue(answer().json["passed"])
        self.assertEqual(len(list((self.state_dir / "work").iterdir())), 0)

    def worker_request_that_may_fail(self, project):
        worker = self.worker

        def ask():
            try:
                return worker.build_test(project, "killed").status
            except (OSError, HTTPException):
                return "cut"

        return later(ask)

    def test_sigterm_ends_runs_and_tells_who_waits(self):
        project = self.held_project()
        answer = self.worker.build_test_later(project, "stopped")
        _, connection = self.meeting.await_one()
        self.assertEqual(self.worker.stop(), 0)
        self.assertTrue(is_gone(connection))
        self.assertEqual((answer().status, answer().code), (503, "shutting_down"))
        self.assertTrue(answer().headers["Retry-After"].isdigit())
        type(self).worker = self.start_worker()

    def test_a_tools_environment_that_was_not_finished_is_made_again(self):
        project = self.project({"test_a.py": PASSING})
        self.assertEqual(self.worker.build_test(project).status, 200)
        (made,) = (self.state_dir / "tools").glob("bare-*")
        (made / "cogo-worker.json").unlink()
        (made / "bin" / "python").unlink()
        self.assertEqual(self.worker.build_test(project).status, 200)
        self.assertTrue((made / "cogo-worker.json").is_file())

    def test_one_worker_for_each_state_directory(self):
        done = subprocess.run(
            [sys.executable, str(PROGRAM), "--port", "0", "--state-dir", str(self.state_dir)],
            capture_output=True, text=True,
        )
        self.assertEqual((done.returncode, done.stdout), (6, ""))
        self.assertIn("--state-dir", done.stderr)


class Busy(WorkerCase):
    options = ("--max-runs", "1", "--keep-runs", "2")

    def test_more_runs_than_places(self):
        held = self.held_project()
        running = self.worker.build_test_later(held, "first")
        _, connection = self.meeting.await_one()
        project = self.project({"test_a.py": PASSING})
        refused = self.worker.build_test(project, "second")
        self.assertEqual((refused.status, refused.code), (429, "busy"))
        self.assertTrue(refused.headers["Retry-After"].isdigit())
        release(connection)
        self.assertEqual(running().status, 200)
        self.assertEqual(self.worker.build_test(project, "second").status, 200)

    def test_old_runs_are_forgotten(self):
        project = self.project({"test_a.py": PASSING})
        answers = [self.worker.build_test(project, f"old-{number}") for number in range(3)]
        self.assertEqual(self.worker.report(answers[0]).status, 404)
        self.assertEqual(self.worker.report(answers[2]).status, 200)
        self.assertEqual(self.worker.build_test(project, "old-0").headers["x-cogo-run-how"], "started")


class Start(WorkerCase):
    def refused(self, *options):
        done = subprocess.run(
            [sys.executable, str(PROGRAM), "--port", "0", "--state-dir", str(self.base / "s"), *options],
            capture_output=True, text=True,
        )
        self.assertEqual(done.stdout, "")
        return done.returncode, done.stderr

    def test_an_open_address_needs_a_token(self):
        status, message = self.refused("--host", "0.0.0.0")
        self.assertEqual(status, 2)
        self.assertIn("--token-file", message)

    def test_a_port_in_use(self):
        status, message = self.refused("--port", str(self.worker.port))
        self.assertEqual(status, 6)
        self.assertIn("--port", message)

    def test_bad_options(self):
        for options in (("--allow-root", "/no/such"), ("--max-runs", "0"), ("--public-url", "x"),
                        ("--token-file", "/no/such"), ("--port", "70000")):
            with self.subTest(options=options):
                self.assertEqual(self.refused(*options)[0], 2)

    def test_token_and_public_url(self):
        token = self.base / "token"
        token.write_text("t" * 32 + "\n")
        worker = Worker(self.base / "state-token", "--allow-root", str(self.root), "--token-file",
                        str(token), "--public-url", "https://ci.example.org/w/")
        self.addCleanup(worker.stop)
        body = {"task_id": "t", "repo": str(self.project({"test_a.py": PASSING})), "trace_id": "x"}
        self.assertEqual(worker.post(body).status, 401)
        self.assertEqual(worker.post(body, Authorization="Bearer wrong").status, 401)
        answer = worker.post(body, Authorization="Bearer " + "t" * 32)
        self.assertEqual(answer.status, 200, answer.content)
        self.assertTrue(answer.json["report_url"].startswith("https://ci.example.org/w/reports/run_"))
