"""One build-test run: edits, source, environment, tests, report.

Knows nothing of HTTP or of idempotency keys.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Dict, List, Optional

from . import apply
from . import edits as edits_module
from .environment import Environments
from .frame import Finished, Frame, frame
from .native import Native, Network
from .process import Processes
from .project import CARGO, NPM, inspect
from .report import JUNIT, LOG, REPORT, write_junit, write_report
from .request import BuildTestRequest
from .results import TestResult, count, described
from .settings import Settings
from .source import Fetcher
from .testing import Outcome, Tester


class BuildTest:
    """Carries out build-test requests."""

    def __init__(self, settings: Settings, processes: Processes) -> None:
        self._settings = settings
        self._processes = processes
        self._environments = Environments(settings, processes)
        self._network = Network(processes)

    def execute(self, run_id: str, request: BuildTestRequest, report_dir: Path) -> Finished:
        """Runs ``request``; leaves the report in ``report_dir``, also where it raises Problem."""
        about = {
            "task_id": request.task_id,
            "trace_id": request.trace_id,
            "repo": request.repo,
            "ref": request.ref,
            "edits_url": request.edits_url,
            "worker_python": platform.python_version(),
        }
        with frame(self._settings, run_id, report_dir, about) as run:
            outcome = self._steps(request, run)
            return _finish(run, outcome.results, outcome.passed)

    def _steps(self, request: BuildTestRequest, run: Frame) -> Outcome:
        settings, processes = self._settings, self._processes
        edits: Optional[edits_module.Edits] = None
        if request.edits_url is not None:
            # First, as it is small and may name the ref to fetch.
            with run.step("edits"):
                edits = edits_module.fetch(request.edits_url, settings)
                run.about["edits"] = {"files": len(edits.edits), "base_ref": edits.base_ref}
        with run.step("source"):
            base_ref = edits.base_ref if edits else None
            tree = Fetcher(run.work, settings, processes, run.log).fetch(request.source, base_ref)
            run.about["source"] = {"kind": tree.kind, "commit": tree.commit}
        if edits is not None:
            with run.step("apply"):
                apply.apply(edits, tree.root, settings.limits)
        with run.step("environment"):
            environments = self._environments
            project = inspect(
                tree.root, lambda path: environments.read_toml(path, run.work, run.log)
            )
            run.about["runner"] = project.runner
            native = project.runner in (CARGO, NPM)
            if not native:
                python = environments.python_for(project, tree.root, run.work, run.log)
                run.about["installed"] = [*project.install, *project.requirements]
        labels = {"COGO_TASK_ID": request.task_id, "COGO_TRACE_ID": request.trace_id}
        if native:
            return self._native(run, project.runner, tree.root, labels)
        with run.step("tests"):
            tester = Tester(run.work, settings.limits, processes, run.log)
            return tester.run(project, tree.root, python, labels)

    def _native(self, run: Frame, runner: str, tree: Path, labels: Dict[str, str]) -> Outcome:
        """The tests of a project that has its own tools."""
        native = Native(self._settings, self._processes, self._network, run.work, run.log)
        try:
            with run.step("build"):
                broken = native.prepare(runner, tree)
            if broken is not None:
                return broken
            with run.step("tests"):
                return native.run(runner, tree, labels)
        finally:
            run.about["network"] = native.network


def _finish(run: Frame, results: List[TestResult], passed: bool) -> Finished:
    counts = count(results)
    fields = {
        "passed": passed,
        "tests": counts.tests,
        "failures": counts.failures,
        "duration_ms": run.duration_ms(),
    }
    write_junit(run.report_dir, results, fields["duration_ms"])
    about = dict(run.described(), **fields, **described(results))
    write_report(run.report_dir, about, [REPORT, JUNIT, LOG])
    return Finished(fields, {"report_url": REPORT})
