"""Projects that use pytest, and projects that have to be installed.

These make the worker's own environments, for which they need a package index.
"""

from .support import MEET, PASSING, WorkerCase, is_gone

SUITE = """
import pytest
@pytest.fixture
def broken_at_the_end():
    yield
    raise RuntimeError("tear-down")
@pytest.mark.parametrize("n", [1, 2, 3])
def test_numbers(n): assert n != 2
def test_set_up(no_such_fixture): pass
def test_tear_down(broken_at_the_end): assert False
@pytest.mark.skip(reason="not here")
def test_skipped(): pass
@pytest.mark.xfail
def test_known(): assert False
"""


class Pytest(WorkerCase):
    options = ("--test-timeout-s", "20")

    def counts(self, answer):
        self.assertEqual(answer.status, 200, answer.content)
        return answer.json["passed"], answer.json["tests"], answer.json["failures"]

    def test_every_outcome_is_counted_once(self):
        answer = self.worker.build_test(self.project({"tests/test_a.py": SUITE}))
        self.assertEqual(self.counts(answer), (False, 7, 3))
        report = self.worker.report(answer).json
        self.assertEqual((report["runner"], report["errors"], report["skipped"]), ("pytest", 1, 1))
        self.assertEqual(report["installed"], [])

    def test_a_module_that_cannot_be_imported(self):
        answer = self.worker.build_test(
            self.project({"conftest.py": "", "test_a.py": PASSING, "test_b.py": "import no_such_module"})
        )
        self.assertEqual(self.counts(answer), (False, 3, 1))

    def test_runs_without_a_test(self):
        nothing = self.worker.build_test(self.project({"pytest.ini": "[pytest]\n"}))
        self.assertEqual((nothing.status, nothing.code), (422, "no_tests_ran"), nothing.content)
        skipped = "import pytest\npytest.skip('no', allow_module_level=True)"
        all_skipped = self.worker.build_test(self.project({"test_a.py": skipped}))
        self.assertEqual((all_skipped.status, all_skipped.code), (422, "no_tests_ran"))
        broken = self.worker.build_test(
            self.project({"conftest.py": "import no_such_module", "test_a.py": PASSING})
        )
        self.assertEqual((broken.status, broken.code), (422, "collection_failed"))
        self.assertIn("no_such_module", broken.json["error"]["message"])
        unknown = self.worker.build_test(
            self.project({"pytest.ini": "[pytest]\naddopts = --no-such\n", "test_a.py": PASSING})
        )
        self.assertEqual((unknown.status, unknown.code), (422, "collection_failed"))

    def test_a_run_that_crashes_names_the_test(self):
        code = "import os, pytest\ndef test_a(): pass\ndef test_b(): os.kill(os.getpid(), 11)\n"
        answer = self.worker.build_test(self.project({"test_a.py": code}))
        self.assertEqual(self.counts(answer), (False, 2, 1))
        last = self.worker.report(answer).json["results"][-1]
        self.assertEqual((last["id"], last["outcome"]), ("test_a.py::test_b", "error"))
        self.assertIn("SIGSEGV", last["message"])

    def test_a_run_that_fails_beyond_its_tests(self):
        hook = "def pytest_sessionfinish(session): session.exitstatus = 1\n"
        answer = self.worker.build_test(self.project({"conftest.py": hook, "test_a.py": PASSING}))
        self.assertEqual(self.counts(answer), (False, 3, 1))

    def test_processes_left_behind_are_killed(self):
        code = MEET.format(port=self.meeting.port) + """
import pytest, subprocess, sys
def test_leaves_one():
    held = subprocess.Popen([sys.executable, "-c", "import socket, time\\n"
        "s = socket.create_connection((\\"127.0.0.1\\", %d)); s.sendall(b\\"left\\\\n\\"); s.recv(1)"],
        start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    meet(b"ready")
""" % self.meeting.port
        answer = self.worker.build_test_later(self.project({"test_a.py": code}))
        held = dict(self.meeting.await_one() for _ in range(2))
        held["ready"].sendall(b".")
        held["ready"].close()
        self.assertTrue(is_gone(held["left"]))
        self.assertEqual(self.counts(answer()), (True, 1, 0))

    def test_a_project_is_installed_with_what_its_tests_need(self):
        answer = self.worker.build_test(
            self.project(
                {
                    "pyproject.toml": (
                        '[build-system]\nrequires = ["flit_core>=3.4"]\nbuild-backend = "flit_core.buildapi"\n'
                        '[project]\nname = "demo-lib"\nversion = "1.2"\ndescription = "d"\n'
                        '[project.optional-dependencies]\ntests = ["iniconfig"]\ndocs = ["no-such-package-here"]\n'
                    ),
                    "src/demo_lib/__init__.py": "from importlib.metadata import version\nV = version('demo-lib')\n",
                    "tests/test_a.py": "import demo_lib, iniconfig\ndef test_v(): assert demo_lib.V == '1.2'\n",
                }
            )
        )
        self.assertEqual(self.counts(answer), (True, 1, 0))
        self.assertEqual(self.worker.report(answer).json["installed"], [".[tests]"])

    def test_a_project_that_cannot_be_installed(self):
        answer = self.worker.build_test(
            self.project({"setup.py": "raise SystemExit('will not build')\n", "test_a.py": PASSING})
        )
        self.assertEqual((answer.status, answer.code), (422, "install_failed"), answer.content)
        broken = self.worker.build_test(self.project({"pyproject.toml": "[[[", "test_a.py": PASSING}))
        self.assertEqual((broken.status, broken.code), (422, "invalid_project"))
