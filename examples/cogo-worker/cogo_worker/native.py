"""Runs the tests of Rust and JavaScript projects: ``cargo test`` and ``npm test``.

Fetching what a project depends on uses the network; its tests then run in a
network that has a loopback and nothing else, where the system can make one. The
downloads of all runs share caches under the state directory.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import threading
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from .environment import last_error
from .errors import Problem, Refused, Unavailable
from .process import CHILDREN, Exit, Processes, RunLog, clean_env
from .project import CARGO, ProjectFiles, npm_dependencies
from .results import ERROR, FAILED, PASSED, TestResult
from .runner_output import Libtest, NodeOutput
from .settings import Settings
from .testing import Outcome, conclude, no_tests, not_collected

MESSAGE_CHARS = 8192
# The operator's word on where packages come from; no credentials among them.
FETCH_NAMES = (
    "SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
    "NPM_CONFIG_REGISTRY", "npm_config_registry", "NPM_CONFIG_CAFILE", "npm_config_cafile",
)
CARGO_PREFIXES = ("CARGO_HTTP_", "CARGO_NET_", "CARGO_SOURCE_", "CARGO_REGISTRIES_")
_NETWORK_TROUBLE = re.compile(
    r"Could not resolve host|Couldn't connect|Could not connect|spurious network error|network failure"
    r"|Timeout was reached|failed to download from|ENOTFOUND|ECONNREFUSED|ECONNRESET|ETIMEDOUT|EAI_AGAIN"
    r"|E5\d\d|E429|SSL connect error"
)
_NOT_COMPILED = re.compile(r"error: could not compile|error(\[E\d+\])?: ")


class Network:
    """Says how to run a command without a network, where that can be done."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._lock = threading.Lock()
        self._can: Optional[bool] = None

    def without(self, command: List[str], work: Path, log: RunLog) -> Tuple[List[str], str]:
        """The command to run, and which network it has: ``loopback`` or ``host``."""
        cut = [sys.executable, "-I", "-S", str(CHILDREN / "confine.py"), "network"]
        with self._lock:
            if self._can is None:
                env = clean_env(work / "home")
                trial = self._processes.run(
                    [*cut, "/bin/sh", "-c", ":"], cwd=work, env=env, timeout_s=20, log=log
                )
                self._can = trial.ok
        return ([*cut, *command], "loopback") if self._can else (command, "host")


class Native:
    """Prepares and runs the tests of one tree."""

    def __init__(
        self,
        settings: Settings,
        processes: Processes,
        network: Network,
        work: Path,
        log: RunLog,
    ) -> None:
        self._settings = settings
        self._processes = processes
        self._network = network
        self._work = work
        self._log = log
        self.network = "host"

    def prepare(self, runner: str, tree: Path) -> Optional[Outcome]:
        """Gets dependencies and builds; an outcome if there is no more to run."""
        if shutil.which(runner) is None:
            raise Unavailable(
                f"{runner}_missing", f"this worker has no {runner}, which the project's tests need",
                f"install {runner} for the worker", retry_after_s=300,
            )
        return self._prepare_cargo(tree) if runner == CARGO else self._prepare_npm(tree)

    def run(self, runner: str, tree: Path, labels: Dict[str, str]) -> Outcome:
        """Runs the tests; ``labels`` go into the environment."""
        return self._cargo(tree, labels) if runner == CARGO else self._npm(tree, labels)

    def _prepare_cargo(self, tree: Path) -> Optional[Outcome]:
        fetched = self._child(["cargo", "fetch"], tree, self._fetch_env(), online=True)
        if not fetched.ok:
            raise self._failure("cargo fetch", fetched)
        built = self._child(["cargo", "test", "--no-run", "--offline"], tree, self._cargo_env())
        if built.ok:
            return None
        if built.timed_out or built.code is None or not _NOT_COMPILED.search(built.tail):
            raise self._failure("cargo test --no-run", built)
        # The change broke the build: a finding, as a module that cannot be imported is.
        broken = TestResult("(build)", ERROR, 0.0, built.tail[-MESSAGE_CHARS:])
        return Outcome([broken], passed=False)

    def _prepare_npm(self, tree: Path) -> Optional[Outcome]:
        files = ProjectFiles(tree)
        locked = files.exists("package-lock.json") or files.exists("npm-shrinkwrap.json")
        if not locked and not npm_dependencies(files):
            return None
        command = ["npm", "ci" if locked else "install", "--no-audit", "--no-fund"]
        result = self._child(command, tree, self._fetch_env(), online=True)
        if not result.ok:
            raise self._failure(" ".join(command[:2]), result)
        return None

    def _cargo(self, tree: Path, labels: Dict[str, str]) -> Outcome:
        found = Libtest()
        command = ["cargo", "test", "--offline", "--no-fail-fast"]
        env = dict(self._cargo_env(), **labels)
        result = self._child(command, tree, env, found, self._settings.limits.test_s)
        found.close()
        if not found.results and found.unfinished is None:
            if result.code == 0:
                raise no_tests("cargo found no tests")
            if not found.programs:
                raise not_collected(result)
        complete = found.unfinished is None
        return conclude(found.results, found.unfinished, result, complete, self._settings.limits)

    def _npm(self, tree: Path, labels: Dict[str, str]) -> Outcome:
        found = NodeOutput()
        env = dict(self._env(), NO_COLOR="1", FORCE_COLOR="0", **labels)
        result = self._child(["npm", "test"], tree, env, found, self._settings.limits.test_s)
        found.close()
        results = found.results()
        if not found.counted and not result.timed_out and result.signal is None:
            # A script of a kind that says no numbers: then it is one test.
            message = "" if result.code == 0 else result.tail[-MESSAGE_CHARS:]
            results = [TestResult("npm test", FAILED if result.code else PASSED, 0.0, message)]
        return conclude(results, None, result, True, self._settings.limits)

    def _child(
        self,
        command: List[str],
        tree: Path,
        env: Dict[str, str],
        found: "Libtest | NodeOutput | None" = None,
        timeout_s: Optional[float] = None,
        online: bool = False,
    ) -> Exit:
        self._log.note("running " + " ".join(command))
        if not online:
            command, self.network = self._network.without(command, self._work, self._log)
        result = self._processes.run(
            command,
            cwd=tree,
            env=env,
            timeout_s=timeout_s or self._settings.limits.install_s,
            log=self._log,
            on_output=found.feed if found else None,
        )
        self._log.note(f"it ended by {result.describe()}")
        if result.survivors:
            self._log.note(f"killed {result.survivors} processes that it had left running")
        return result

    def _env(self) -> Dict[str, str]:
        state = self._settings.state_dir
        env = clean_env(self._work / "home")
        env.update(
            CI="true",
            CARGO_HOME=str(state / "cargo-home"),
            CARGO_TARGET_DIR=str(self._work / "target"),
            CARGO_TERM_COLOR="never",
            npm_config_cache=str(state / "npm-cache"),
            npm_config_update_notifier="false",
        )
        # Toolchains belong to the worker's user, whose home a child does not have.
        rustup = os.environ.get("RUSTUP_HOME") or str(Path.home() / ".rustup")
        if os.path.isdir(rustup):
            env["RUSTUP_HOME"] = rustup
            # A project may name a toolchain, not have one downloaded.
            env["RUSTUP_AUTO_INSTALL"] = "0"
        if "RUSTUP_TOOLCHAIN" in os.environ:
            env["RUSTUP_TOOLCHAIN"] = os.environ["RUSTUP_TOOLCHAIN"]
        return env

    def _cargo_env(self) -> Dict[str, str]:
        return dict(self._env(), CARGO_NET_OFFLINE="true", RUST_BACKTRACE="1")

    def _fetch_env(self) -> Dict[str, str]:
        env = self._env()
        for name, value in os.environ.items():
            wanted = name in FETCH_NAMES or name.startswith(CARGO_PREFIXES)
            if wanted and not name.endswith("_TOKEN"):
                env[name] = value
        return env

    def _failure(self, what: str, result: Exit) -> Problem:
        if result.timed_out:
            limit_s = self._settings.limits.install_s
            return Unavailable("install_timed_out", f"{what} took longer than {limit_s:.0f} s")
        if "No space left on device" in result.tail or "ENOSPC" in result.tail:
            return Unavailable("disk_full", f"no space left during {what}", retry_after_s=60)
        if _NETWORK_TROUBLE.search(result.tail):
            return Unavailable("index_unreachable", f"{what} could not reach the package registry")
        reason = last_error(result.tail)
        return Refused("install_failed", f"{what}: {reason}", "the run's log has all of it")
