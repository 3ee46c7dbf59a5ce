"""Starts children: limited, in a clean environment, killed with all they started.

The only module that starts processes. Each child runs below
``children/supervise.py``, which holds the limits and outlives this process just
long enough to kill the child when the worker dies.

Invariant: a child never sees the worker's environment; it gets ``clean_env``
and what its step adds to it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Deque, Dict, List, Optional, Sequence, Set

from .errors import Unavailable
from .settings import Limits

CHILDREN = Path(__file__).resolve().parent / "children"
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
# For a child that limits itself: far from its own limits, not without one.
UNBOUND_PROCESSES = 4096
# Enough of the last output to classify a failure and to show it in an error.
TAIL_BYTES = 16 * 1024


@dataclass(frozen=True)
class Exit:
    """How a child ended. Exactly one of ``code`` and ``signal`` is usually set."""

    code: Optional[int]
    signal: Optional[int]
    timed_out: bool
    # The reader of the output had enough, or the worker is stopping.
    stopped: bool
    # Processes the child had left running; they were killed.
    survivors: int
    tail: str

    @property
    def ok(self) -> bool:
        return self.code == 0 and not self.timed_out and not self.stopped

    def describe(self) -> str:
        """For people: ``exit status 2``, ``SIGSEGV``, ``the time limit``."""
        if self.timed_out:
            return "the time limit"
        if self.signal is not None:
            try:
                return signal.Signals(self.signal).name
            except ValueError:
                return f"signal {self.signal}"
        return f"exit status {self.code}"


class RunLog:
    """The log of a run, bounded: its beginning and its end, and what was left out."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._file = open(path, "wb")
        self._head_left = max_bytes - max_bytes // 2
        self._tail_bytes = max_bytes // 2
        self._tail: Deque[bytes] = deque()
        self._tail_size = 0
        self._dropped = 0
        self._lock = threading.Lock()

    def write(self, data: bytes) -> None:
        with self._lock:
            head, rest = data[: self._head_left], data[self._head_left :]
            self._head_left -= len(head)
            self._file.write(head)
            if not rest:
                return
            self._tail.append(rest)
            self._tail_size += len(rest)
            while self._tail_size - len(self._tail[0]) >= self._tail_bytes:
                gone = self._tail.popleft()
                self._tail_size -= len(gone)
                self._dropped += len(gone)

    @property
    def dropped(self) -> int:
        """How many bytes were left out; exact once the log is closed."""
        with self._lock:
            return self._dropped

    def note(self, text: str) -> None:
        """Adds a line of the worker's own."""
        self.write(f"[cogo-worker] {text}\n".encode("utf-8", "replace"))

    def close(self) -> None:
        with self._lock:
            tail = b"".join(self._tail)
            # Chunks were kept whole until now.
            self._dropped += max(0, len(tail) - self._tail_bytes)
            if self._dropped:
                self._file.write(
                    f"\n[cogo-worker] {self._dropped} bytes left out here\n".encode()
                )
            self._file.write(tail[max(0, len(tail) - self._tail_bytes) :])
            self._tail.clear()
            self._file.close()


def clean_env(home: Path, path_first: Optional[Path] = None) -> Dict[str, str]:
    """The environment of a child: nothing of the worker's own but the search path."""
    path = os.environ.get("PATH", SYSTEM_PATH)
    temporary = home / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    return {
        "PATH": f"{path_first}{os.pathsep}{path}" if path_first else path,
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "PYTHONNOUSERSITE": "1",
        "PYTHONIOENCODING": "utf-8:backslashreplace",
        "PYTHONUNBUFFERED": "1",
        # With it, a test run that hangs shows where when its time is over.
        "PYTHONFAULTHANDLER": "1",
    }


class Processes:
    """All children of this worker, so that they can be ended together."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._supervisors: Set[subprocess.Popen] = set()
        self._closed = False

    def run(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        env: Dict[str, str],
        timeout_s: float,
        log: Optional[RunLog] = None,
        on_output: Optional[Callable[[bytes], bool]] = None,
        on_error: Optional[Callable[[bytes], None]] = None,
        file_bytes: Optional[int] = None,
        limits_itself: bool = False,
    ) -> Exit:
        """Runs ``command`` to its end and returns how it ended.

        Output goes to ``log``, or to ``on_output``, which ends the child by
        returning False. ``on_error`` has standard error apart. A child that
        ``limits_itself`` holds what it starts to narrower limits of its own.
        """
        status_read, status_write = os.pipe()
        spec = {
            "command": list(command),
            "cwd": str(cwd),
            "timeout_s": timeout_s,
            "status_fd": status_write,
            "limits": {
                "memory_bytes": None if limits_itself else self._limits.memory_bytes,
                "file_bytes": file_bytes or self._limits.file_bytes,
                "open_files": self._limits.open_files,
                "processes": UNBOUND_PROCESSES if limits_itself else self._limits.processes,
                # Of all threads of one process together; the wall clock is the real limit.
                "cpu_s": int(timeout_s * (os.cpu_count() or 1)) + 1,
            },
        }
        try:
            supervisor = self._start(spec, env, status_write, on_error is not None)
        except BaseException:
            os.close(status_read)
            raise
        finally:
            os.close(status_write)
        try:
            reader = _read_errors(supervisor, on_error)
            tail, enough = self._drain(supervisor, log, on_output)
            reader.join()
            with os.fdopen(status_read, "rb") as status:
                outcome = json.loads(status.read(65536) or b"null")
            supervisor.wait()
        finally:
            self._forget(supervisor)
        if self._closed:
            raise Unavailable("shutting_down", "the worker is stopping", retry_after_s=1)
        if outcome is None:
            raise Unavailable("supervisor_lost", "the process that holds the limits was killed")
        if outcome.get("error"):
            raise Unavailable("cannot_start", f"{command[0]}: {outcome['error']}")
        return Exit(
            code=outcome["code"],
            signal=outcome["signal"],
            timed_out=outcome["timed_out"],
            stopped=outcome["stopped"] or enough,
            survivors=outcome["survivors"],
            tail=tail,
        )

    def _start(
        self, spec: dict, env: Dict[str, str], status_fd: int, errors_apart: bool
    ) -> subprocess.Popen:
        with self._lock:
            if self._closed:
                raise Unavailable("shutting_down", "the worker is stopping", retry_after_s=1)
            supervisor = subprocess.Popen(
                [sys.executable, "-I", "-S", str(CHILDREN / "supervise.py"), json.dumps(spec)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE if errors_apart else subprocess.STDOUT,
                env=env,
                pass_fds=(status_fd,),
                # A Ctrl-C in the terminal is the worker's to handle.
                start_new_session=True,
            )
            self._supervisors.add(supervisor)
            return supervisor

    def _drain(
        self,
        supervisor: subprocess.Popen,
        log: Optional[RunLog],
        on_output: Optional[Callable[[bytes], bool]],
    ) -> "tuple[str, bool]":
        pieces: Deque[bytes] = deque()
        size = 0
        enough = False
        assert supervisor.stdout is not None
        descriptor = supervisor.stdout.fileno()
        while True:
            chunk = os.read(descriptor, 65536)
            if not chunk:
                break
            if on_output is not None and not enough and not on_output(chunk):
                enough = True
                _cut(supervisor)
            if log is not None:
                log.write(chunk)
            pieces.append(chunk)
            size += len(chunk)
            while size - len(pieces[0]) >= TAIL_BYTES:
                size -= len(pieces.popleft())
        return b"".join(pieces)[-TAIL_BYTES:].decode("utf-8", "replace"), enough

    def _forget(self, supervisor: subprocess.Popen) -> None:
        with self._lock:
            self._supervisors.discard(supervisor)
        _cut(supervisor)
        for stream in (supervisor.stdout, supervisor.stderr):
            if stream is not None:
                stream.close()

    def close(self) -> None:
        """Kills every child and everything they started; no new ones start."""
        with self._lock:
            self._closed = True
            supervisors: List[subprocess.Popen] = list(self._supervisors)
        for supervisor in supervisors:
            _cut(supervisor)


def _cut(supervisor: subprocess.Popen) -> None:
    """Closes the lifeline: the supervisor kills everything and ends."""
    try:
        if supervisor.stdin is not None:
            supervisor.stdin.close()
    except OSError:
        return


def _read_errors(
    supervisor: subprocess.Popen, on_error: Optional[Callable[[bytes], None]]
) -> threading.Thread:
    """Reads standard error, where it is apart, at the same time as the output."""

    def read() -> None:
        if supervisor.stderr is None or on_error is None:
            return
        while True:
            chunk = os.read(supervisor.stderr.fileno(), 65536)
            if not chunk:
                return
            on_error(chunk)

    thread = threading.Thread(target=read, name="errors", daemon=True)
    thread.start()
    return thread
