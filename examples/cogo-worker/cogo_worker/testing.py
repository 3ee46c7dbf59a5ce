"""Runs a Python project's tests and says what any project's tests found.

A run that produced results is a verdict, also where it crashed or ran out of
time: what it had not finished counts as one failure. A run without a single
result is not: then the project has no tests, or could not be collected.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterable, List, Optional, Set, Tuple

from .errors import Refused
from .process import CHILDREN, Exit, Processes, RunLog, clean_env
from .project import NOT_SOURCE, Project
from .results import (
    ERROR,
    SKIPPED,
    WHOLE_RUN,
    TestResult,
    read_events,
    read_junit,
)
from .settings import Limits

PYTEST_NO_TESTS = 5
MESSAGE_CHARS = 2000


@dataclass(frozen=True)
class Outcome:
    """The results of a run, and the verdict on them."""

    results: List[TestResult]
    passed: bool


class Tester:
    """Runs the tests of one tree."""

    def __init__(self, work: Path, limits: Limits, processes: Processes, log: RunLog) -> None:
        self._work = work
        self._limits = limits
        self._processes = processes
        self._log = log
        self._out = work / "results"
        self._out.mkdir()
        self._events = self._out / "events.jsonl"

    def run(self, project: Project, tree: Path, python: Path, labels: Dict[str, str]) -> Outcome:
        """Runs the project's tests with ``python``; ``labels`` go into the environment."""
        env = clean_env(self._work / "home", path_first=python.parent)
        env.update(labels, CI="true", COGO_WORKER_EVENTS=str(self._events))
        if python.parent.parent.joinpath("pyvenv.cfg").is_file():
            env["VIRTUAL_ENV"] = str(python.parent.parent)
        if project.runner == "pytest":
            return self._pytest(project, tree, python, env)
        return self._unittest(tree, python, env)

    def _unittest(self, tree: Path, python: Path, env: Dict[str, str]) -> Outcome:
        places = [part for place in unittest_places(tree) for part in place]
        if not places:
            raise no_tests("the project has no file named test*.py")
        script = str(CHILDREN / "unittest_run.py")
        result = self._child([str(python), "-s", script, str(self._events), *places], tree, env)
        found = read_events(self._events)
        if not found.results and found.unfinished is None and not found.ended:
            raise not_collected(result)
        return conclude(
            list(found.results), found.unfinished, result, found.ended, self._limits
        )

    def _pytest(self, project: Project, tree: Path, python: Path, env: Dict[str, str]) -> Outcome:
        junit = self._out / "junit.xml"
        path = [str(CHILDREN / "pytest_plugin")]
        if not project.install:
            # In place: what an installation would have put on the path.
            path = [str(tree), str(tree / "src")] + path
        env["PYTHONPATH"] = os.pathsep.join(path)
        command = [str(python), "-m", "pytest", "-p", "cogo_worker_events", "--color=no"]
        command += [f"--junitxml={junit}", "-o", "junit_family=xunit1", "-o", "junit_logging=no"]
        # As unittest does: a file that cannot be imported is one failure among the results.
        command += ["--continue-on-collection-errors", f"--rootdir={tree}"]
        result = self._child(command, tree, env)
        found = read_events(self._events)
        results = read_junit(junit)
        if not results and not found.results and found.unfinished is None:
            if result.code == PYTEST_NO_TESTS:
                raise no_tests("pytest found no tests")
            raise not_collected(result)
        complete = results is not None
        results = list(found.results) if results is None else results
        return conclude(results, found.unfinished, result, complete, self._limits)

    def _child(self, command: List[str], tree: Path, env: Dict[str, str]) -> Exit:
        self._log.note("running " + " ".join(command[1:]))
        result = self._processes.run(
            command, cwd=tree, env=env, timeout_s=self._limits.test_s, log=self._log
        )
        self._log.note(f"the test run ended by {result.describe()}")
        if result.survivors:
            self._log.note(f"killed {result.survivors} processes that it had left running")
        return result


def conclude(
    results: List[TestResult],
    unfinished: Optional[str],
    end: Exit,
    complete: bool,
    limits: Limits,
) -> Outcome:
    """The verdict; a run that ended badly beyond what its results say is a failure more.

    ``unfinished`` is the test it was in, ``complete`` says whether the runner
    got to report all that it had run.
    """
    any_failed = any(result.failed for result in results)
    cut_short = end.timed_out or end.signal is not None or not complete
    if not cut_short and all(result.outcome == SKIPPED for result in results):
        raise no_tests(f"all {len(results)} tests were skipped" if results else "found no tests")
    if cut_short or (end.code != 0 and not any_failed):
        name = (unfinished if cut_short else None) or WHOLE_RUN
        message = f"the test run was ended by {end.describe()}"
        if end.timed_out:
            message += f" of {limits.test_s:g} s"
        results = [*results, TestResult(name, ERROR, 0.0, message)]
        any_failed = True
    return Outcome(results, passed=not any_failed)


def no_tests(reason: str) -> Refused:
    """Nothing ran, so there is nothing to say: never a pass."""
    return Refused(
        "no_tests_ran", reason, "tests are looked for as pytest, unittest, cargo test and npm test find them"
    )


def not_collected(result: Exit) -> Refused:
    """The runner gave up before the first test."""
    lines = [line for line in result.tail.strip().splitlines() if line.strip()]
    return Refused(
        "collection_failed",
        f"the test runner ended by {result.describe()} before any test:\n"
        + "\n".join(lines[-20:])[-MESSAGE_CHARS:],
        "the run's log has all of its output",
    )


def unittest_places(tree: Path) -> List[Tuple[str, str]]:
    """Where discovery has to start, with the top directory of each start.

    Discovery descends into packages only, so every directory with test files
    that is not below a package found already is a start of its own.
    """
    places: Set[Tuple[str, str]] = set()
    for directory, names, files in os.walk(tree):
        names[:] = sorted(n for n in names if n[0] != "." and n not in NOT_SOURCE)
        if any(name.startswith("test") and name.endswith(".py") for name in files):
            places.add(_start_of(Path(directory), tree))
    # Discovery in a plain directory descends into the packages right below it.
    plain = {start for start, top in places if start == top}
    return sorted(place for place in places if place[0] == place[1] or place[1] not in plain)


def _start_of(directory: Path, tree: Path) -> Tuple[str, str]:
    """The outermost package that ``directory`` is in, with its parent as the top."""
    package: Optional[Path] = None
    current = directory
    for current in _upwards(directory, tree):
        if not (current / "__init__.py").is_file():
            break
        package = current
    if package is None:
        return str(directory), str(directory)
    return str(package), str(package.parent)


def _upwards(directory: Path, tree: Path) -> Iterable[Path]:
    """``directory`` and its parents, up to but not including ``tree``."""
    while directory != tree:
        yield directory
        directory = directory.parent
