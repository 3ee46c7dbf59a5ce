"""Virtual environments: the worker's own tools, and one for each run.

    tools/bare      an interpreter without packages, for projects that need none
    tools/pip       pip, which installs into the environment of a run
    tools/pytest    pytest, for projects that use it and declare nothing else

Each is made when a run first needs it, and is complete only once its marker is
written: one that was interrupted is made again. Nothing of a project is ever
installed into them, nor into the interpreter that runs the worker.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import threading
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from .errors import Problem, Refused, Unavailable
from .log import say
from .process import CHILDREN, Exit, Processes, RunLog, clean_env
from .project import Project
from .settings import Settings

PYTEST = "pytest>=8.2,<9"
# The first pip that knows dependency groups.
TOOLS: Dict[str, Tuple[str, ...]] = {
    "bare": (),
    "pip": ("pip>=25.1",) + (() if sys.version_info >= (3, 11) else ("tomli>=2",)),
    "pytest": (PYTEST,),
}
MARKER = "cogo-worker.json"
# Where packages come from is the operator's word; build backends of a project see it too.
PASSED_ON = (
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_FIND_LINKS",
    "PIP_NO_INDEX",
    "PIP_CERT",
    "PIP_PROXY",
    "PIP_TRUSTED_HOST",
    "PIP_CONFIG_FILE",
    "PIP_DEFAULT_TIMEOUT",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
)
NETWORK_TROUBLE = (
    "NewConnectionError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "Retrying (Retry(",
    "Temporary failure in name resolution",
    "Connection reset by peer",
    "Connection broken",
    "HTTPSConnectionPool(",
    "429 Client Error",
    "Server Error",
)


class Environments:
    """Makes virtual environments and installs into them."""

    def __init__(self, settings: Settings, processes: Processes) -> None:
        self._settings = settings
        self._processes = processes
        self._lock = threading.Lock()

    def python_for(self, project: Project, tree: Path, work: Path, log: RunLog) -> Path:
        """An interpreter that has what the project's tests need."""
        if not project.needs_pip:
            return self._tool("pytest" if project.runner == "pytest" else "bare", work, log)
        pip = self._tool("pip", work, log)
        python = self._make(work / "venv", (), work, log)
        wanted = list(project.requirements)
        if project.runner == "pytest":
            wanted.append("pytest")
        self._install_project(pip, python, project, wanted, tree, work, log)
        return python

    def read_toml(self, path: Path, work: Path, log: RunLog) -> Dict[str, Any]:
        """Parses a TOML file; raises ValueError where it is none."""
        if sys.version_info >= (3, 11):
            import tomllib

            with open(path, "rb") as file:
                return tomllib.load(file)
        python = self._tool("pip", work, log)
        pieces: List[bytes] = []

        def keep(chunk: bytes) -> bool:
            pieces.append(chunk)
            return True

        result = self._processes.run(
            [str(python), "-I", str(CHILDREN / "read_toml.py"), str(path)],
            cwd=work,
            env=clean_env(work / "home"),
            timeout_s=30,
            on_output=keep,
        )
        if not result.ok:
            raise ValueError(result.tail.strip().splitlines()[-1] if result.tail else "unreadable")
        return json.loads(b"".join(pieces))

    def _install_project(
        self,
        pip: Path,
        python: Path,
        project: Project,
        wanted: Sequence[str],
        tree: Path,
        work: Path,
        log: RunLog,
    ) -> None:
        """Installs in place, as developers do; copies where the build backend cannot."""
        editable = ["-e", project.install[0]] if project.install else []
        result = self._pip(pip, python, [*editable, *wanted], tree, work, log)
        if not result.ok and editable and "build_editable" in result.tail:
            log.note("the build backend has no editable installs; installing a copy")
            result = self._pip(pip, python, [*project.install, *wanted], tree, work, log)
        if not result.ok:
            raise self._failure(result)

    def _pip(
        self, pip: Path, python: Path, arguments: List[str], tree: Path, work: Path, log: RunLog
    ) -> Exit:
        log.note("pip install " + " ".join(arguments))
        env = clean_env(work / "home", path_first=python.parent)
        env.update({name: os.environ[name] for name in PASSED_ON if name in os.environ})
        env["PIP_CACHE_DIR"] = str(self._settings.pip_cache_dir)
        env["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
        env["PIP_ROOT_USER_ACTION"] = "ignore"
        command = [str(pip), "-m", "pip"]
        if pip != python:
            command += ["--python", str(python)]
        command += ["install", "--no-input", "--progress-bar", "off", "--prefer-binary", *arguments]
        limit_s = self._settings.limits.install_s
        return self._processes.run(command, cwd=tree, env=env, timeout_s=limit_s, log=log)

    def _failure(self, result: Exit) -> Problem:
        limit_s = self._settings.limits.install_s
        if result.timed_out:
            return Unavailable("install_timed_out", f"pip took longer than {limit_s:.0f} s")
        if "No space left on device" in result.tail:
            return Unavailable("disk_full", "no space left while installing", retry_after_s=60)
        if any(sign in result.tail for sign in NETWORK_TROUBLE):
            return Unavailable("index_unreachable", "pip could not reach the package index")
        return Refused("install_failed", last_error(result.tail), "the run's log has all of it")

    def _tool(self, name: str, work: Path, log: RunLog) -> Path:
        """The interpreter of one of the worker's own environments, made if need be."""
        packages = TOOLS[name]
        marker = json.dumps({"python": sys.version, "base": sys.base_prefix, "packages": packages})
        digest = hashlib.sha256(marker.encode()).hexdigest()[:12]
        directory = self._settings.tools_dir / f"{name}-{digest}"
        with self._lock:
            if (directory / MARKER).is_file():
                return directory / "bin" / "python"
            say("making the tools environment", name=name, packages=" ".join(packages) or "none")
            shutil.rmtree(directory, ignore_errors=True)
            python = self._make(directory, packages, work, log)
            (directory / MARKER).write_text(marker)
            say("tools environment ready", name=name)
            return python

    def _make(self, directory: Path, packages: Tuple[str, ...], work: Path, log: RunLog) -> Path:
        """Makes a virtual environment, with pip in it only if it has to install something."""
        command = [sys.executable, "-I", "-m", "venv", str(directory)]
        if not packages:
            command.insert(-1, "--without-pip")
        home = clean_env(work / "home")
        made = self._processes.run(command, cwd=work, env=home, timeout_s=120, log=log)
        python = directory / "bin" / "python"
        if not made.ok:
            raise Unavailable(
                "environment_unavailable",
                f"a virtual environment could not be made: {last_error(made.tail)}",
                "the interpreter needs its venv and ensurepip modules (Debian: python3-venv)",
                retry_after_s=60,
            )
        if packages:
            result = self._pip(python, python, ["--upgrade", *packages], work, work, log)
            if not result.ok:
                failure = self._failure(result)
                raise Unavailable(
                    "environment_unavailable",
                    f"the worker could not install {' '.join(packages)}: {failure.message}",
                    "the worker needs a package index once; set PIP_INDEX_URL for another one",
                    retry_after_s=60,
                )
        return python


def last_error(output: str) -> str:
    """The most telling line of a tool's output."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    chosen: Optional[str] = (errors or lines or [None])[-1]
    return (chosen or "no output")[:300]
