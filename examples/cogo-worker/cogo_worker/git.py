"""Gets one commit of a git repository into a directory.

Never runs a hook, asks for a password, follows a redirect, or uses a transport
other than the one the checked URL names. Submodules and LFS are left alone.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Dict, List, Optional

from .errors import Problem, Refused, Unavailable
from .process import Exit, Processes, RunLog, clean_env
from .settings import Limits

# What the operator's environment may tell git: where to find its way out, and who to trust.
PASSED_ON = (
    "GIT_SSL_CAINFO",
    "GIT_SSL_CAPATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "SSH_AUTH_SOCK",
)
OPTIONS = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "credential.helper=",
    "http.followRedirects=false",
    "advice.detachedHead=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "submodule.recurse=false",
)
_MISSING_REF = re.compile(
    r"couldn't find remote ref|not our ref|unadvertised object|unknown revision|Needed a single"
    r"|bad revision|ambiguous argument"
)
_NO_SHALLOW = re.compile(r"does not support shallow")
_MISSING_REPO = re.compile(
    r"not found|does not exist|does not appear to be a git|Authentication failed"
    r"|could not read Username|Permission denied|access rights|error: 40[134]|dubious ownership"
    r"|unable to update url base|error: 30\d|not a git repository|fatal: invalid"
)


class Repository:
    """A working copy in the making: one directory, one remote."""

    def __init__(
        self, tree: Path, home: Path, protocol: str, processes: Processes, limits: Limits, log: RunLog
    ) -> None:
        self._tree = tree
        self._processes = processes
        self._limits = limits
        self._log = log
        self._env = _environment(home, protocol)

    def checkout(self, url: str, ref: Optional[str]) -> str:
        """Leaves the tree at ``ref`` (HEAD if None) and returns the commit."""
        self._must(["init", "--quiet", "--template="], "making a repository")
        # A plain refspec, so a name is looked up as git does: tag, then branch.
        fetched = self._git(["fetch", "--depth=1", "--no-tags", "--", url, ref or "HEAD"])
        if fetched.ok:
            commit = self._resolve("FETCH_HEAD")
        elif _NO_SHALLOW.search(fetched.tail):
            self._must(["fetch", "--no-tags", "--", url, ref or "HEAD"], "fetching the repository")
            commit = self._resolve("FETCH_HEAD")
        elif ref is not None and _MISSING_REF.search(fetched.tail):
            commit = self._find_in_everything(url, ref)
        else:
            raise self._failure(fetched, "fetching the repository")
        self._check_size(commit)
        self._must(["checkout", "--quiet", "--force", "--detach", commit], "checking out")
        return commit

    def _find_in_everything(self, url: str, ref: str) -> str:
        """A commit that the server does not hand out by name: gets all branches and tags."""
        refs = ["+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"]
        fetched = self._git(["fetch", "--quiet", "--", url, *refs])
        if not fetched.ok:
            raise self._failure(fetched, "fetching the repository")
        return self._resolve(ref)

    def _resolve(self, name: str) -> str:
        found = self._git(["rev-parse", "--verify", "--quiet", "--end-of-options", name + "^{commit}"])
        commit = found.tail.strip()
        if not found.ok or not re.fullmatch(r"[0-9a-f]{40,64}", commit):
            raise Refused(
                "ref_not_found",
                f"the repository has no branch, tag or commit {name}",
                "was it pushed?",
            )
        return commit

    def _check_size(self, commit: str) -> None:
        """Counts what a checkout would write before anything is written."""
        counter = _TreeCounter(self._limits)
        listed = self._git(
            ["ls-tree", "-r", "-l", "-z", "--full-tree", commit], on_output=counter.feed
        )
        if counter.too_large:
            raise Refused(
                "source_too_large",
                f"the tree has more than {self._limits.source_entries} files"
                f" or {self._limits.source_bytes} bytes",
            )
        if not listed.ok:
            raise self._failure(listed, "reading the tree")

    def _git(self, arguments: List[str], on_output=None) -> Exit:
        command = ["git"]
        for option in OPTIONS:
            command += ["-c", option]
        return self._processes.run(
            command + arguments,
            cwd=self._tree,
            env=self._env,
            timeout_s=self._limits.fetch_s,
            log=None if on_output else self._log,
            on_output=on_output,
            # A pack is one file: this ends a clone that grows without bounds.
            file_bytes=self._limits.source_bytes,
        )

    def _must(self, arguments: List[str], doing: str) -> None:
        result = self._git(arguments)
        if not result.ok:
            raise self._failure(result, doing)

    def _failure(self, result: Exit, doing: str) -> Problem:
        """Sorts a failure of git: what the request names wrongly, or a fault of the moment."""
        tail = result.tail.strip()
        reason = tail.splitlines()[-1][:300] if tail else f"git ended by {result.describe()}"
        if result.timed_out:
            return Unavailable(
                "fetch_timed_out", f"{doing} took longer than {self._limits.fetch_s:.0f} s"
            )
        if "No space left" in tail:
            return Unavailable("disk_full", f"no space left while {doing}", retry_after_s=60)
        if "File too large" in tail or "SIGXFSZ" in result.describe():
            return Refused(
                "source_too_large", f"the repository is over {self._limits.source_bytes} bytes"
            )
        if _MISSING_REF.search(tail):
            return Refused("ref_not_found", f"{doing}: {reason}")
        if _MISSING_REPO.search(tail) and "Could not resolve host" not in tail:
            hint = "check the address, and that the worker may read it without a password"
            return Refused("repo_not_found", f"{doing}: {reason}", hint)
        return Unavailable("fetch_failed", f"{doing}: {reason}")


class _TreeCounter:
    """Counts ``git ls-tree -l -z`` output; says when it is enough."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._entries = 0
        self._bytes = 0
        self._rest = b""
        self.too_large = False

    def feed(self, chunk: bytes) -> bool:
        *complete, self._rest = (self._rest + chunk).split(b"\0")
        for entry in complete:
            self._entries += 1
            fields = entry.split(b"\t", 1)[0].split()
            if len(fields) == 4 and fields[3].isdigit():
                self._bytes += int(fields[3])
        self.too_large = (
            self._entries > self._limits.source_entries
            or self._bytes > self._limits.source_bytes
        )
        return not self.too_large


def _environment(home: Path, protocol: str) -> Dict[str, str]:
    env = clean_env(home)
    env.update({name: os.environ[name] for name in PASSED_ON if name in os.environ})
    env.update(
        GIT_TERMINAL_PROMPT="0",
        GIT_ASKPASS="false",
        SSH_ASKPASS="false",
        GIT_CONFIG_NOSYSTEM="1",
        GIT_CONFIG_GLOBAL=os.devnull,
        GIT_ALLOW_PROTOCOL=protocol,
        GIT_PROTOCOL_FROM_USER="0",
        GIT_LFS_SKIP_SMUDGE="1",
        GIT_SSH_COMMAND="ssh -oBatchMode=yes -oStrictHostKeyChecking=yes -oConnectTimeout=20",
    )
    return env
