"""Which run answers a request: one in progress, a finished one, or a new one.

    (none) --start--> running --verdict or refusal--> finished   kept, replayed
                         \\--fault of the moment--> (none)        asked again, runs again

A finished run is on disk before anybody hears of it, so that it is replayed
also by a later worker. A run that its worker did not survive left no record and
runs again. A key always means the same request.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shutil
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Protocol

from .errors import Problem, Refused, Unavailable, from_os_error
from .frame import Finished, remove_tree
from .log import say
from .report import CONTENT_TYPES, REPORT, write_whole
from .settings import Settings

RECORD = "record.json"
RECORD_VERSION = 2
RUN_ID = re.compile(r"run_[0-9a-f]{32}")
BUSY_RETRY_S = 5


class Request(Protocol):
    """A checked request of any operation."""

    @property
    def task_id(self) -> str:
        """The producer's label."""

    @property
    def trace_id(self) -> str:
        """Who asks, for the log."""

    def fingerprint(self) -> str:
        """What its idempotency key stands for; differs between operations."""


# Carries a request out: the run's id, the request, the directory for its report.
Execute = Callable[[str, Any, Path], Finished]


@dataclass(frozen=True)
class Answer:
    """What a run is answered with. ``links`` are fields that name report files."""

    status: int
    body: Dict[str, Any]
    links: Dict[str, str]
    retry_after_s: Optional[int] = None


@dataclass(frozen=True)
class Kept:
    """A run that is over and kept."""

    run_id: str
    key_digest: str
    fingerprint: str
    finished_at: float
    answer: Answer


class Running:
    """A run in progress; whoever asks for it waits for the one answer."""

    def __init__(self, run_id: str, key_digest: str, fingerprint: str) -> None:
        self.run_id = run_id
        self.key_digest = key_digest
        self.fingerprint = fingerprint
        self._done = threading.Event()
        self._answer: Optional[Answer] = None

    def finish(self, answer: Answer) -> None:
        self._answer = answer
        self._done.set()

    def wait(self) -> Answer:
        """Blocks until the run is over."""
        self._done.wait()
        assert self._answer is not None
        return self._answer


@dataclass(frozen=True)
class Handled:
    """The run behind an answer, and how it came to it: started, joined or replayed."""

    run_id: str
    how: str
    wait: Callable[[], Answer]


class Runs:
    """All runs of this worker."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._running: Dict[str, Running] = {}
        self._threads: List[threading.Thread] = []
        self._closed = False
        remove_tree(settings.work_dir)
        settings.work_dir.mkdir(parents=True)
        settings.runs_dir.mkdir(parents=True, exist_ok=True)
        self._finished = _load(settings.runs_dir)

    def handle(self, key: Optional[str], request: Request, execute: Execute) -> Handled:
        """Joins, replays or starts the run of ``key``; a request without a key is a run of its own."""
        digest = hashlib.sha256((key or secrets.token_hex(32)).encode("ascii")).hexdigest()
        fingerprint = request.fingerprint()
        with self._lock:
            finished = self._finished.get(digest)
            if finished is not None:
                _same(finished.fingerprint, fingerprint)
                answer = finished.answer
                return Handled(finished.run_id, "replayed", lambda: answer)
            running = self._running.get(digest)
            if running is not None:
                _same(running.fingerprint, fingerprint)
                return Handled(running.run_id, "joined", running.wait)
            running = self._start(digest, fingerprint, request, execute)
            return Handled(running.run_id, "started", running.wait)

    def _start(
        self, digest: str, fingerprint: str, request: Request, execute: Execute
    ) -> Running:
        """Starts a run; the caller holds the lock."""
        if self._closed:
            raise Unavailable("shutting_down", "the worker is stopping", retry_after_s=1)
        limit = self._settings.limits.max_runs
        if len(self._running) >= limit:
            raise Unavailable(
                "busy",
                f"all {limit} places for runs are taken",
                "ask again later, or start the worker with a larger --max-runs",
                retry_after_s=BUSY_RETRY_S,
                status=429,
            )
        running = Running(f"run_{secrets.token_hex(16)}", digest, fingerprint)
        self._running[digest] = running
        thread = threading.Thread(
            target=self._carry_out,
            args=(running, request, execute),
            name=running.run_id,
            daemon=True,
        )
        self._threads = [other for other in self._threads if other.is_alive()] + [thread]
        thread.start()
        return running

    def _carry_out(self, running: Running, request: Request, execute: Execute) -> None:
        directory = self._settings.runs_dir / running.run_id
        started = time.monotonic()
        try:
            answer = _answer(running, request, execute, directory)
            if answer.status < 500:
                self._keep(running, answer, directory)
        except OSError as error:
            problem = from_os_error(error, "storing the run")
            answer = Answer(problem.status, problem.body(), {}, problem.retry_after_s)
        except Exception:
            traceback.print_exc()
            body = Problem(500, "internal", "the worker failed; its log says how").body()
            answer = Answer(500, body, {}, BUSY_RETRY_S)
        finally:
            with self._lock:
                self._running.pop(running.key_digest, None)
        if answer.status >= 500:
            shutil.rmtree(directory, ignore_errors=True)
            answer = Answer(answer.status, answer.body, {}, answer.retry_after_s)
        say(
            "run ended",
            run=running.run_id,
            task_id=request.task_id,
            trace_id=request.trace_id,
            status=answer.status,
            result=_summary(answer.body),
            ms=int((time.monotonic() - started) * 1000),
        )
        running.finish(answer)

    def _keep(self, running: Running, answer: Answer, directory: Path) -> None:
        """Makes a run durable, then known; forgets the oldest ones over the limit."""
        finished = Kept(
            running.run_id, running.key_digest, running.fingerprint, time.time(), answer
        )
        _store(finished, directory)
        with self._lock:
            self._finished[running.key_digest] = finished
            by_age = sorted(self._finished.values(), key=lambda run: run.finished_at)
            old = by_age[: max(0, len(by_age) - self._settings.limits.keep_runs)]
            for run in old:
                del self._finished[run.key_digest]
        for run in old:
            shutil.rmtree(self._settings.runs_dir / run.run_id, ignore_errors=True)

    def in_progress(self) -> int:
        """How many runs are in progress."""
        with self._lock:
            return len(self._running)

    def stop_starting(self) -> None:
        """No new run starts; those in progress are the caller's to end."""
        with self._lock:
            self._closed = True

    def join(self, timeout_s: float) -> None:
        """Waits until every run has ended."""
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))


def _same(known: str, asked: str) -> None:
    if known != asked:
        raise Refused(
            "idempotency_key_reused",
            "this idempotency-key stands for another request",
            "a key is for one task: the same operation with the same fields but trace_id",
        )


def _answer(running: Running, request: Request, execute: Execute, directory: Path) -> Answer:
    try:
        finished = execute(running.run_id, request, directory)
        return Answer(200, finished.fields, finished.links)
    except Problem as problem:
        links = {"report_url": REPORT}
        return Answer(problem.status, problem.body(), links, problem.retry_after_s)


def _summary(body: Dict[str, Any]) -> str:
    """The short fields of an answer, for the log."""
    error = body.get("error")
    if error:
        return str(error["code"])
    plain = {name: value for name, value in body.items() if isinstance(value, (bool, int))}
    return ",".join(f"{name}:{value}" for name, value in plain.items())


def _store(finished: Kept, directory: Path) -> None:
    record = {
        "version": RECORD_VERSION,
        "run_id": finished.run_id,
        "key_digest": finished.key_digest,
        "fingerprint": finished.fingerprint,
        "finished_at": finished.finished_at,
        "status": finished.answer.status,
        "body": finished.answer.body,
        "links": finished.answer.links,
    }
    write_whole(directory / RECORD, json.dumps(record).encode("utf-8"))


def _load(runs_dir: Path) -> Dict[str, Kept]:
    """Reads the finished runs; a directory without a record is a run that was cut off."""
    found: Dict[str, Kept] = {}
    for directory in sorted(runs_dir.iterdir()):
        if not RUN_ID.fullmatch(directory.name):
            continue
        try:
            record = json.loads((directory / RECORD).read_bytes())
            if record["version"] != RECORD_VERSION or record["run_id"] != directory.name:
                raise ValueError("the record is of another version or run")
            finished = Kept(
                directory.name,
                str(record["key_digest"]),
                str(record["fingerprint"]),
                float(record["finished_at"]),
                Answer(int(record["status"]), dict(record["body"]), dict(record["links"])),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            say("removing a run without a usable record", run=directory.name, reason=error)
            shutil.rmtree(directory, ignore_errors=True)
            continue
        found[finished.key_digest] = finished
    return found


def report_file(runs_dir: Path, run_id: str, name: str) -> Optional[Path]:
    """The file of a finished run that may be served under ``name``, if there is one."""
    if not RUN_ID.fullmatch(run_id) or name not in CONTENT_TYPES:
        return None
    path = runs_dir / run_id / name
    if path.is_symlink() or not path.is_file() or not (runs_dir / run_id / RECORD).is_file():
        return None
    return path
