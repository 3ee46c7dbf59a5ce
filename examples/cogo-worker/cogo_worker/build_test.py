"""One build-test run: edits, source, environment, tests, report.

Knows nothing of HTTP or of idempotency keys. Works in a directory of its own
that is removed at the end; only the report directory outlives the run.
"""

from __future__ import annotations

import os
import platform
import shutil
import stat
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

from . import edits as edits_module
from .environment import Environments
from .errors import Problem, from_os_error
from .log import say
from .process import Processes, RunLog
from .project import inspect
from .report import JUNIT, LOG, REPORT, write_junit, write_report
from .request import BuildTestRequest
from .results import TestResult, count
from .settings import Settings
from .source import Fetcher
from .testing import Tester


@dataclass(frozen=True)
class Verdict:
    """The answer to the caller, without the address of the report."""

    passed: bool
    tests: int
    failures: int
    duration_ms: int

    def body(self) -> Dict[str, Any]:
        return {
            "passed": self.passed,
            "tests": self.tests,
            "failures": self.failures,
            "duration_ms": self.duration_ms,
        }


@dataclass
class _Notes:
    """What the report says about the run; filled in as it goes on."""

    about: Dict[str, Any]
    steps: List[Dict[str, Any]] = field(default_factory=list)


class BuildTest:
    """Carries out build-test requests."""

    def __init__(self, settings: Settings, processes: Processes) -> None:
        self._settings = settings
        self._processes = processes
        self._environments = Environments(settings, processes)

    def execute(self, run_id: str, request: BuildTestRequest, report_dir: Path) -> Verdict:
        """Runs ``request``; leaves the report in ``report_dir``, also where it raises Problem."""
        started = time.monotonic()
        notes = _Notes(
            {
                "run": run_id,
                "task_id": request.task_id,
                "trace_id": request.trace_id,
                "repo": request.repo,
                "ref": request.ref,
                "edits_url": request.edits_url,
                "worker_python": platform.python_version(),
            }
        )
        work = self._settings.work_dir / run_id
        results: List[TestResult] = []
        try:
            work.mkdir()
            report_dir.mkdir()
            log = RunLog(report_dir / LOG, self._settings.limits.log_bytes)
            try:
                outcome = self._steps(run_id, request, work, notes, log)
                results = outcome.results
                return self._finish(report_dir, notes, results, outcome.passed, started)
            except Problem as problem:
                log.note(f"{problem.code}: {problem.message}")
                notes.about.update(problem.body(), duration_ms=_since_ms(started))
                write_report(report_dir, dict(notes.about, steps=notes.steps), [], [REPORT, LOG])
                raise
            finally:
                log.close()
        except OSError as error:
            raise from_os_error(error, "carrying out the run") from error
        finally:
            remove_tree(work)

    def _finish(
        self,
        report_dir: Path,
        notes: _Notes,
        results: List[TestResult],
        passed: bool,
        started: float,
    ) -> Verdict:
        counts = count(results)
        verdict = Verdict(passed, counts.tests, counts.failures, _since_ms(started))
        write_junit(report_dir, results, verdict.duration_ms)
        about = dict(notes.about, **verdict.body(), steps=notes.steps)
        write_report(report_dir, about, results, [REPORT, JUNIT, LOG])
        return verdict

    def _steps(
        self, run_id: str, request: BuildTestRequest, work: Path, notes: _Notes, log: RunLog
    ) -> Any:
        settings, processes = self._settings, self._processes
        edits: Optional[edits_module.Edits] = None
        if request.edits_url is not None:
            # First, as it is small and may name the ref to fetch.
            with _step("edits", run_id, notes, log):
                edits = edits_module.fetch(request.edits_url, settings)
                notes.about["edits"] = {"files": len(edits.edits), "base_ref": edits.base_ref}
        with _step("source", run_id, notes, log):
            base_ref = edits.base_ref if edits else None
            tree = Fetcher(work, settings, processes, log).fetch(request.source, base_ref)
            notes.about["source"] = {"kind": tree.kind, "commit": tree.commit}
        if edits is not None:
            with _step("apply", run_id, notes, log):
                edits_module.apply(edits, tree.root)
        with _step("environment", run_id, notes, log):
            environments = self._environments
            project = inspect(tree.root, lambda path: environments.read_toml(path, work, log))
            python = environments.python_for(project, tree.root, work, log)
            notes.about["runner"] = project.runner
            notes.about["installed"] = [*project.install, *project.requirements]
        with _step("tests", run_id, notes, log):
            labels = {"COGO_TASK_ID": request.task_id, "COGO_TRACE_ID": request.trace_id}
            tester = Tester(work, settings.limits, processes, log)
            return tester.run(project, tree.root, python, labels)


@contextmanager
def _step(name: str, run_id: str, notes: _Notes, log: RunLog) -> Iterator[None]:
    """Times one step and says on standard error that it has begun."""
    say("step", run=run_id, step=name)
    log.note(f"step: {name}")
    started = time.monotonic()
    try:
        yield
    finally:
        notes.steps.append({"name": name, "duration_ms": _since_ms(started)})


def _since_ms(started: float) -> int:
    return int((time.monotonic() - started) * 1000)


def remove_tree(path: Path) -> None:
    """Removes a tree that the project may have made hard to remove."""

    def make_writable(function: Any, name: str, _error: Any) -> None:
        try:
            os.chmod(os.path.dirname(name), stat.S_IRWXU)
            if not os.path.islink(name):
                os.chmod(name, stat.S_IRWXU)
            function(name)
        except OSError:
            return

    if path.exists():
        shutil.rmtree(path, onerror=make_writable)
        if path.exists():
            say("could not remove all of a work directory", path=path)
