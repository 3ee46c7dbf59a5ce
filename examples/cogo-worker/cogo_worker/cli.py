"""The command line: options to settings, start, stop.

Standard output gets one line, once the worker listens; everything else goes to
standard error. Exit status: 0 after a signal, 2 for a usage or configuration
error, 6 when the port or the state directory is taken.
"""

from __future__ import annotations

import argparse
import fcntl
import ipaddress
import os
import re
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import IO, List, Optional
from urllib.parse import urlsplit

from . import __version__
from .build_test import BuildTest
from .codegen import Codegen, parse_codegen
from .log import say
from .process import Processes
from .request import parse_build_test
from .runs import Runs
from .sandbox import Sandbox
from .server import Operation, Server, base_url
from .settings import MIB, Limits, SandboxMode, Settings

USAGE = 2
UNAVAILABLE = 6
STOP_S = 8.0


class UsageError(Exception):
    """What the operator asked for cannot be done as asked."""


def parser() -> argparse.ArgumentParser:
    """The options."""
    limits = Limits()
    options = argparse.ArgumentParser(
        prog="cogo-worker",
        description="Runs a project's own tests on request, over HTTP.",
        epilog="It runs code that a request names. Tests it limits but does not isolate; what"
        " /run/sandbox runs it isolates.",
    )
    options.add_argument("--host", default="127.0.0.1", help="address to bind (%(default)s)")
    options.add_argument("--port", type=int, default=8080, help="0: any free one (%(default)s)")
    options.add_argument("--state-dir", type=Path, metavar="DIR", help="(~/.cache/cogo-worker)")
    options.add_argument(
        "--allow-root", type=Path, action="append", metavar="DIR",
        help="local paths are read below here only; repeatable (the current directory)",
    )
    options.add_argument(
        "--allow-host", action="append", metavar="HOST",
        help="download from, and clone from, these hosts only; repeatable (any host)",
    )
    options.add_argument("--public-url", metavar="URL", help="base of report_url, behind a proxy")
    options.add_argument("--token-file", type=Path, metavar="FILE", help="callers must send this token")
    options.add_argument(
        "--allow-unauthenticated", action="store_true",
        help="bind an address other than loopback without a token",
    )
    options.add_argument("--max-runs", type=int, default=limits.max_runs, metavar="N",
                         help="runs at a time; more get 429 (%(default)s)")
    options.add_argument("--keep-runs", type=int, default=limits.keep_runs, metavar="N",
                         help="finished runs kept for replay (%(default)s)")
    options.add_argument("--test-timeout-s", type=float, default=limits.test_s, metavar="S",
                         help="time limit of the tests (%(default)s)")
    options.add_argument("--install-timeout-s", type=float, default=limits.install_s, metavar="S",
                         help="time limit of pip (%(default)s)")
    options.add_argument("--memory-mb", type=int, default=limits.memory_bytes // MIB, metavar="MB",
                         help="address space of each process (%(default)s)")
    options.add_argument("--sandbox", choices=[mode.value for mode in SandboxMode],
                         default=SandboxMode.ISOLATED.value,
                         help="/run/sandbox in namespaces or not at all, with resource limits"
                              " alone, or never (%(default)s)")
    options.add_argument("--version", action="version", version=f"cogo-worker {__version__}")
    return options


def settings_from(given: argparse.Namespace) -> Settings:
    """Checks the options against each other and the disk."""
    if not 0 <= given.port <= 65535:
        raise UsageError("--port must be from 0 to 65535")
    for name in ("max_runs", "keep_runs", "test_timeout_s", "install_timeout_s", "memory_mb"):
        if not getattr(given, name) > 0:
            raise UsageError(f"--{name.replace('_', '-')} must be more than 0")
    roots = [root.resolve() for root in given.allow_root or [Path.cwd()]]
    for root in roots:
        if not root.is_dir():
            raise UsageError(f"--allow-root {root} is not a directory")
    token = _read_token(given.token_file) if given.token_file else None
    if token is None and not given.allow_unauthenticated and not _is_loopback(given.host):
        raise UsageError(
            f"--host {given.host} lets others run code here: add --token-file FILE,"
            " or --allow-unauthenticated if the network keeps them out"
        )
    sandbox = SandboxMode(given.sandbox)
    if sandbox is SandboxMode.LIMITS_ONLY and os.geteuid() == 0:
        raise UsageError(
            "--sandbox limits-only needs another user than root, whom limits do not hold"
        )
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    limits = replace(
        Limits(),
        max_runs=given.max_runs,
        keep_runs=given.keep_runs,
        test_s=given.test_timeout_s,
        install_s=given.install_timeout_s,
        memory_bytes=given.memory_mb * MIB,
    )
    return Settings(
        host=given.host,
        port=given.port,
        state_dir=(given.state_dir or cache / "cogo-worker").resolve(),
        roots=tuple(roots),
        public_url=_public_url(given.public_url),
        token=token,
        hosts=frozenset(host.lower() for host in given.allow_host) if given.allow_host else None,
        sandbox=sandbox,
        limits=limits,
    )


def _read_token(path: Path) -> str:
    try:
        token = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--token-file {path} cannot be read: {error}") from error
    if not re.fullmatch(r"[\x21-\x7e]{16,}", token):
        raise UsageError(f"--token-file {path} must hold 16 or more visible ASCII characters")
    return token


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _public_url(url: Optional[str]) -> Optional[str]:
    if url is None:
        return None
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise UsageError(f"--public-url {url} is not an http or https URL")
    return url.rstrip("/")


def _lock(settings: Settings) -> IO[str]:
    """Takes the state directory for this process alone."""
    try:
        settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = open(settings.state_dir / "lock", "w")
    except OSError as error:
        raise UsageError(f"--state-dir {settings.state_dir}: {error.strerror}") from error
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return file


def main(arguments: Optional[List[str]] = None) -> int:
    """Runs the worker until a signal ends it; returns the exit status."""
    try:
        settings = settings_from(parser().parse_args(arguments))
        lock = _lock(settings)
    except UsageError as error:
        print(f"cogo-worker: {error}", file=sys.stderr)
        return USAGE
    except BlockingIOError:
        print(
            "cogo-worker: another worker uses this state directory; choose one with --state-dir",
            file=sys.stderr,
        )
        return UNAVAILABLE
    with lock:
        return _serve(settings)


def _serve(settings: Settings) -> int:
    stop = threading.Event()

    def on_signal(number: int, _frame: object) -> None:
        if stop.is_set():
            # Asked twice: children end with the lifelines that close here.
            os._exit(128 + number)
        stop.set()

    processes = Processes(settings.limits)
    runs = Runs(settings)
    sandbox = Sandbox(settings, processes)
    operations = {
        "/run/build-test": Operation(parse_build_test, BuildTest(settings, processes).execute),
        "/run/codegen": Operation(parse_codegen, Codegen(settings, processes).execute),
        "/run/sandbox": Operation(sandbox.parse, sandbox.execute),
    }
    try:
        server = Server(settings, runs, operations)
    except OSError as error:
        print(
            f"cogo-worker: cannot listen on {settings.host} port {settings.port}:"
            f" {error.strerror}; choose another with --port, or 0 for a free one",
            file=sys.stderr,
        )
        return UNAVAILABLE
    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="accept")
    thread.start()
    say("started", version=__version__, state_dir=settings.state_dir,
        roots=os.pathsep.join(map(str, settings.roots)))
    address = (server.server_address[0], server.port)
    print(f"cogo-worker listening on {base_url(address)}", flush=True)
    stop.wait()
    say("stopping", running=runs.in_progress())
    # Runs first, so that whoever waits for one is told to come back.
    runs.stop_starting()
    processes.close()
    runs.join(STOP_S)
    server.shutdown()
    server.wait_idle(STOP_S)
    server.server_close()
    thread.join()
    say("stopped")
    return 0
