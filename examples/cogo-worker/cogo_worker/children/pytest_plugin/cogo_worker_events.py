"""A pytest plugin that notes each test as it starts and ends.

The results come from pytest's JUnit file, which is written at the very end;
these notes say how far a run got that was killed before that.
"""

import json
import os

_DESCRIPTOR = None


def _emit(**fields):
    if _DESCRIPTOR is not None:
        os.write(_DESCRIPTOR, (json.dumps(fields) + "\n").encode("ascii"))


def pytest_configure(config):
    global _DESCRIPTOR
    # Workers of pytest-xdist report to the controller, which has this plugin too.
    path = os.environ.get("COGO_WORKER_EVENTS")
    if path and not hasattr(config, "workerinput"):
        _DESCRIPTOR = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def pytest_runtest_logstart(nodeid, location):
    _emit(event="start", id=nodeid)


def pytest_runtest_logreport(report):
    if report.when == "call" or report.outcome != "passed":
        outcome = {"passed": "passed", "skipped": "skipped"}.get(
            report.outcome, "failed" if report.when == "call" else "error"
        )
        if hasattr(report, "wasxfail"):
            outcome = "expected_failure" if report.skipped else "passed"
        message = report.longreprtext[-8192:] if report.failed else ""
        ms = report.duration * 1000
        _emit(event="result", id=report.nodeid, outcome=outcome, ms=ms, message=message)
