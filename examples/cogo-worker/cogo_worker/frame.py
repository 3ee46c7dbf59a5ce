"""What every run has, whatever it does: a directory of its own, a log, timed
steps, and a report that is written also where the run is refused.

The work directory is removed at the end; only the report directory outlives
the run.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, List

from .errors import Problem, from_os_error
from .log import say
from .process import RunLog
from .report import LOG, REPORT, write_report
from .settings import Settings


@dataclass(frozen=True)
class Finished:
    """What a run is answered with.

    ``links`` are the fields that hold addresses, each with the report file it
    names: where the worker is reached is known only when it answers.
    """

    fields: Dict[str, Any]
    links: Dict[str, str]


@dataclass
class Frame:
    """A run as it goes on. ``about`` is what its report says of it."""

    run_id: str
    work: Path
    report_dir: Path
    log: RunLog
    about: Dict[str, Any]
    started: float
    steps: List[Dict[str, Any]] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Times one step and says on standard error that it has begun."""
        say("step", run=self.run_id, step=name)
        self.log.note(f"step: {name}")
        started = time.monotonic()
        try:
            yield
        finally:
            self.steps.append({"name": name, "duration_ms": _since_ms(started)})

    def duration_ms(self) -> int:
        """How long the run has taken so far."""
        return _since_ms(self.started)

    def described(self) -> Dict[str, Any]:
        """``about`` and the steps, for the report."""
        return dict(self.about, steps=self.steps)


@contextmanager
def frame(
    settings: Settings, run_id: str, report_dir: Path, about: Dict[str, Any]
) -> Iterator[Frame]:
    """Opens the frame of a run; what is raised inside is a ``Problem`` outside."""
    started = time.monotonic()
    work = settings.work_dir / run_id
    try:
        work.mkdir()
        report_dir.mkdir()
        log = RunLog(report_dir / LOG, settings.limits.log_bytes)
        run = Frame(run_id, work, report_dir, log, dict(about, run=run_id), started)
        try:
            yield run
        except Problem as problem:
            log.note(f"{problem.code}: {problem.message}")
            run.about.update(problem.body(), duration_ms=run.duration_ms())
            write_report(report_dir, run.described(), [REPORT, LOG])
            raise
        finally:
            log.close()
    except OSError as error:
        raise from_os_error(error, "carrying out the run") from error
    finally:
        remove_tree(work)


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
