"""One sandbox run: a command or a piece of code, in isolation, within limits.

``children/confine.py`` makes the isolation. A system that cannot isolate is
told so to the caller, with the reason; the only other way is the operator's
own ``--sandbox limits-only``, and the answer then says so.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from .errors import Problem, Refused, Unavailable, from_os_error
from .frame import Finished, frame
from .process import CHILDREN, SYSTEM_PATH, Exit, Processes, RunLog, clean_env
from .report import LOG, REPORT, STDERR, STDOUT, write_report
from .request import LABEL_CHARS, fingerprint, invalid, text
from .settings import (
    MIB, SANDBOX_DEFAULTS, SANDBOX_MOST, SandboxLimits, SandboxMode, Settings,
)

FIELDS = ("task_id", "command", "code", "language", "limits", "trace_id")
NEEDS = "either command (a line for a shell, or a list) or code and language"
LANGUAGES = {"python": "main.py", "sh": "main.sh", "javascript": "main.js"}
# Longer ones the system does not start.
COMMAND_BYTES = 96 * 1024
ARGUMENTS = 1000
# On top of the wall time: for setting up, and for the reader of the output.
MARGIN_S = 20.0
OPEN_FILES = 256
# Of the scratch directory, for each megabyte.
ENTRIES_PER_MB = 256
# Processes that make the sandbox count as the command's.
OWN_PROCESSES = 3
SYSTEM = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32",
    "/etc/ld.so.cache", "/etc/alternatives",
)


@dataclass(frozen=True)
class SandboxRequest:
    """One request for ``/run/sandbox``, checked."""

    task_id: str
    trace_id: str
    command: Tuple[str, ...]
    # The file that the command runs, where the request brought code.
    files: Dict[str, str]
    limits: SandboxLimits

    def fingerprint(self) -> str:
        """What the idempotency key stands for."""
        return fingerprint(
            "sandbox", self.task_id, self.command, self.files, asdict(self.limits)
        )


def parse_sandbox(document: Any) -> SandboxRequest:
    """Checks every field; raises ``Refused`` with status 400."""
    if not isinstance(document, dict):
        raise invalid("the body must be a JSON object", f"fields: {', '.join(FIELDS)}")
    unknown = sorted(set(document) - set(FIELDS))
    if unknown:
        raise invalid(
            f"unknown field {unknown[0][:80]!r}",
            f"known fields: {', '.join(FIELDS)}", code="unknown_field",
        )
    task_id = text(document, "task_id", LABEL_CHARS, required=True) or ""
    trace_id = text(document, "trace_id", LABEL_CHARS, required=True) or ""
    command, code = document.get("command"), document.get("code")
    if (command is None) == (code is None):
        raise invalid(f"{'neither' if code is None else 'both'} command and code are given", NEEDS)
    limits = _parse_limits(document.get("limits"))
    if command is not None:
        if document.get("language") is not None:
            raise invalid("language is given without code", NEEDS)
        return SandboxRequest(task_id, trace_id, _parse_command(command), {}, limits)
    language = text(document, "language", 40, required=True)
    if language not in LANGUAGES:
        raise invalid(
            f"language {language!r} is not known", f"known: {', '.join(LANGUAGES)}",
            code="language_unavailable",
        )
    name = LANGUAGES[language]
    return SandboxRequest(
        task_id, trace_id, (*_interpreter(language), name), {name: _plain(code, "code")}, limits
    )


def _parse_command(value: Any) -> Tuple[str, ...]:
    if isinstance(value, str):
        command: List[str] = ["/bin/sh", "-c", _plain(value, "command")]
    elif isinstance(value, list) and 0 < len(value) <= ARGUMENTS:
        command = [_argument(part, f"command[{at}]") for at, part in enumerate(value)]
        if not command[0]:
            raise invalid("command[0] is empty", "it names the program")
    else:
        raise invalid(f"command is neither a string nor a list of 1 to {ARGUMENTS} strings", NEEDS)
    if sum(len(part.encode("utf-8")) + 1 for part in command) > COMMAND_BYTES:
        raise invalid(f"command is over {COMMAND_BYTES} bytes", "send a long program as code")
    return tuple(command)


def _plain(value: Any, field: str) -> str:
    found = _argument(value, field)
    if not found.strip():
        raise invalid(f"{field} is empty", NEEDS)
    return found


def _argument(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise invalid(f"{field} must be a string", NEEDS)
    if "\x00" in value:
        raise invalid(f"{field} contains a zero byte")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise invalid(f"{field} contains half a surrogate pair") from error
    return value


def _parse_limits(value: Any) -> SandboxLimits:
    if value is None:
        return SANDBOX_DEFAULTS
    names = [field.name for field in fields(SandboxLimits)]
    if not isinstance(value, dict):
        raise invalid("limits must be an object", f"fields: {', '.join(names)}")
    for name, wanted in value.items():
        if name not in names:
            raise invalid(
                f"limits: unknown field {name[:80]!r}", f"known fields: {', '.join(names)}",
                code="unknown_field",
            )
        most = getattr(SANDBOX_MOST, name)
        if type(wanted) is not int or not 1 <= wanted <= most:
            raise invalid(f"limits.{name} must be a whole number from 1 to {most}")
    return SandboxLimits(**dict(asdict(SANDBOX_DEFAULTS), **value))


def _interpreter(language: str) -> Tuple[str, ...]:
    if language == "python":
        return (os.path.realpath(sys.executable), "-B")
    found = shutil.which("node") if language == "javascript" else "/bin/sh"
    if found is None:
        raise Refused(
            "language_unavailable", "this worker's system has no node, which javascript needs",
            "install it, or leave such tasks to another worker",
        )
    return (os.path.realpath(found),) if language == "javascript" else (found,)


class Sandbox:
    """Carries out sandbox requests."""

    def __init__(self, settings: Settings, processes: Processes) -> None:
        self._settings = settings
        self._processes = processes
        self._lock = threading.Lock()
        self._proven = False

    def parse(self, document: Any, _settings: Settings) -> SandboxRequest:
        """Checks a request, and that it can be isolated here; a refusal is no run."""
        request = parse_sandbox(document)
        mode = self._settings.sandbox
        if mode is SandboxMode.OFF:
            raise Refused("sandbox_off", "this worker was started with --sandbox off")
        if not sys.platform.startswith("linux"):
            raise _cannot_isolate("it is not Linux")
        if mode is SandboxMode.ISOLATED:
            self._prove()
        return request

    def _prove(self) -> None:
        """Isolates nothing at all, once, to see that it can be done."""
        with self._lock:
            if self._proven:
                return
            work = self._settings.work_dir / f"proof-{os.getpid()}"
            work.mkdir(exist_ok=True)
            nothing = SandboxRequest("", "", ("/bin/sh", "-c", ":"), {}, SANDBOX_DEFAULTS)
            log = RunLog(work / "log", 4096)
            try:
                outcome = self._confine(nothing, work, log, log)
                if outcome.get("code") != 0:
                    raise _cannot_isolate(f"a trial ended by {json.dumps(outcome)}")
            except OSError as error:
                raise from_os_error(error, "trying the sandbox") from error
            finally:
                log.close()
                shutil.rmtree(work, ignore_errors=True)
            self._proven = True

    def execute(self, run_id: str, request: SandboxRequest, report_dir: Path) -> Finished:
        """Runs ``request``; leaves its output in ``report_dir``."""
        isolation = "namespaces" if self._isolates else "none"
        about = {
            "task_id": request.task_id,
            "trace_id": request.trace_id,
            "limits": asdict(request.limits),
            "isolation": isolation,
        }
        with frame(self._settings, run_id, report_dir, about) as run:
            out = RunLog(report_dir / STDOUT, request.limits.log_bytes)
            err = RunLog(report_dir / STDERR, request.limits.log_bytes)
            try:
                with run.step("sandbox"):
                    outcome = self._confine(request, run.work, out, err)
                limit = outcome["limit"]
                if limit is not None:
                    err.note(f"ended: over the limit {limit} of {getattr(request.limits, limit)}")
            finally:
                out.close()
                err.close()
            answer = {
                "exit_code": _exit_code(outcome),
                "stdout": (report_dir / STDOUT).read_bytes().decode("utf-8", "replace"),
                "stderr": (report_dir / STDERR).read_bytes().decode("utf-8", "replace"),
                "truncated": bool(out.dropped or err.dropped),
                "duration_ms": run.duration_ms(),
                "limit": limit,
                "cpu_ms": outcome["cpu_ms"],
                "isolation": isolation,
            }
            told = {name: answer[name] for name in answer if name not in ("stdout", "stderr")}
            files = [REPORT, STDOUT, STDERR, LOG]
            write_report(report_dir, dict(run.described(), **told), files)
            return Finished(answer, {"report_url": REPORT})

    @property
    def _isolates(self) -> bool:
        return self._settings.sandbox is SandboxMode.ISOLATED

    def _confine(
        self, request: SandboxRequest, work: Path, out: RunLog, err: RunLog
    ) -> Dict[str, Any]:
        """Runs the command and returns how it ended."""
        root, status = work / "root", work / "status.json"
        root.mkdir()
        (work / "spec.json").write_text(json.dumps(self._spec(request, root, status)), "utf-8")

        def keep(chunk: bytes) -> bool:
            out.write(chunk)
            return True

        result = self._processes.run(
            [sys.executable, "-I", "-S", str(CHILDREN / "confine.py"), "sandbox", str(work / "spec.json")],
            cwd=work,
            env=clean_env(work / "home"),
            timeout_s=request.limits.wall_ms / 1000 + MARGIN_S,
            on_output=keep,
            on_error=err.write,
            limits_itself=True,
        )
        return _outcome(status, result)

    def _spec(self, request: SandboxRequest, root: Path, status: Path) -> Dict[str, Any]:
        limits = request.limits
        home = "/scratch" if self._isolates else str(root)
        prefix = os.path.realpath(sys.base_prefix)
        return {
            "command": request.command,
            "env": {
                "PATH": f"{prefix}/bin:{SYSTEM_PATH}",
                "HOME": home,
                "TMPDIR": f"{home}/tmp",
                "LANG": "C.UTF-8",
                "PYTHONUNBUFFERED": "1",
            },
            "files": request.files,
            "isolate": self._isolates,
            "root": str(root),
            "read_only": [*SYSTEM, *_outside_usr([prefix, _node_prefix()])],
            "status": str(status),
            "limits": {
                "cpu_ms": limits.cpu_ms,
                "wall_ms": limits.wall_ms,
                "memory_bytes": limits.memory_mb * MIB,
                "disk_bytes": limits.disk_mb * MIB,
                "entries": limits.disk_mb * ENTRIES_PER_MB,
                "processes": limits.processes,
                "processes_before": OWN_PROCESSES + (0 if self._counts_apart() else _user_tasks()),
                "open_files": OPEN_FILES,
            },
        }

    def _counts_apart(self) -> bool:
        """Whether the kernel counts the processes of a user namespace by themselves."""
        release = os.uname().release.split(".")
        return self._isolates and (int(release[0]), int(release[1].split("-")[0])) >= (5, 14)


def _outcome(status: Path, result: Exit) -> Dict[str, Any]:
    try:
        outcome: Dict[str, Any] = json.loads(status.read_bytes())
    except (OSError, ValueError) as error:
        raise Unavailable(
            "sandbox_lost", f"what held the sandbox ended by {result.describe()}"
        ) from error
    if outcome.get("error"):
        raise _cannot_isolate(str(outcome["error"])[:300])
    return outcome


def _cannot_isolate(reason: str) -> Problem:
    return Refused(
        "isolation_unavailable",
        f"this worker's system cannot isolate a command: {reason}",
        "allow it unprivileged user namespaces (a container: SYS_ADMIN and no seccomp filter"
        " against them), or start the worker with --sandbox limits-only for trusted commands",
    )


def _exit_code(outcome: Dict[str, Any]) -> int:
    """As the report has it: the status, or the number of the signal below zero."""
    if outcome["code"] is not None:
        return int(outcome["code"])
    return -int(outcome["signal"] or signal.SIGKILL)


def _node_prefix() -> Optional[str]:
    found = shutil.which("node")
    return str(Path(os.path.realpath(found)).parent.parent) if found else None


def _outside_usr(prefixes: List[Optional[str]]) -> List[str]:
    """Where interpreters are installed that the system's directories do not hold."""
    wanted = {prefix for prefix in prefixes if prefix and len(Path(prefix).parts) > 1}
    return sorted(prefix for prefix in wanted if not f"{prefix}/".startswith("/usr/"))


def _user_tasks() -> int:
    """Tasks that this user runs now, which the process limit counts, too."""
    count = 0
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and entry.stat().st_uid == os.getuid():
                count += len(list((entry / "task").iterdir()))
        except OSError:
            continue
    return count
