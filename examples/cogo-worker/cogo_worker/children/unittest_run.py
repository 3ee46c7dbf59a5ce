"""Discovers and runs unittest tests; writes one JSON line for each event.

    python unittest_run.py EVENTS START TOP [START TOP …]

Runs in the project's root, in the project's environment. Results come from the
test framework's own callbacks, so they are exact; what is printed is only for
people. ``end`` is the last event: without it the run was cut short.
"""

import json
import os
import sys
import time
import traceback
import unittest

MESSAGE_CHARS = 8192


class Events:
    """Appends events to a file that is opened once, before the project runs."""

    def __init__(self, path):
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def emit(self, event, **fields):
        line = json.dumps(dict(fields, event=event)) + "\n"
        os.write(self._descriptor, line.encode("ascii"))


class Recorder(unittest.TestResult):
    """Turns the framework's callbacks into one ``result`` event for each test."""

    def __init__(self, events):
        super().__init__()
        self._events = events
        self._current = None
        self._outcome = "passed"
        self._messages = []
        self._started = 0.0

    def startTest(self, test):
        super().startTest(test)
        self._current = test
        self._outcome = "passed"
        self._messages = []
        self._started = time.monotonic()
        self._events.emit("start", id=test.id())

    def stopTest(self, test):
        super().stopTest(test)
        elapsed_ms = (time.monotonic() - self._started) * 1000
        self._result(test.id(), self._outcome, elapsed_ms, "\n".join(self._messages))
        self._current = None

    def addError(self, test, err):
        super().addError(test, err)
        self._note(test, "error", text(err))

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self._note(test, "failed", text(err))

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            failed = issubclass(err[0], test.failureException)
            self._note(test, "failed" if failed else "error", str(subtest) + "\n" + text(err))

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        if test is self._current or self._current is None:
            self._note(test, "skipped", reason)

    def addExpectedFailure(self, test, err):
        super().addExpectedFailure(test, err)
        self._note(test, "expected_failure", "")

    def addUnexpectedSuccess(self, test):
        super().addUnexpectedSuccess(test)
        self._note(test, "failed", "passed, although a failure was expected")

    def _note(self, test, outcome, message):
        if self._current is None:
            # A class or module whose set-up or tear-down went wrong, not a test.
            self._result(test.id(), outcome, 0.0, message)
            return
        order = ("passed", "skipped", "expected_failure", "failed", "error")
        self._outcome = max(self._outcome, outcome, key=order.index)
        self._messages.append(message)

    def _result(self, name, outcome, elapsed_ms, message):
        message = str(message)[-MESSAGE_CHARS:]
        self._events.emit("result", id=name, outcome=outcome, ms=elapsed_ms, message=message)
        print(f"{outcome}: {name}" + (f"\n{message}" if message else ""), flush=True)


def text(err):
    return "".join(traceback.format_exception(*err))


def main():
    events = Events(sys.argv[1])
    root = os.getcwd()
    # This file's directory must not be where the project's imports are found.
    sys.path[0] = root
    if os.path.isdir("src"):
        sys.path.insert(1, os.path.join(root, "src"))
    suite = unittest.TestSuite()
    for start, top in zip(sys.argv[2::2], sys.argv[3::2]):
        # One loader for each place: a loader remembers its first top directory.
        suite.addTest(unittest.TestLoader().discover(start, top_level_dir=top))
    sys.argv[1:] = []
    recorder = Recorder(events)
    suite.run(recorder)
    events.emit("end")
    sys.exit(0 if recorder.wasSuccessful() else 1)


if __name__ == "__main__":
    main()
