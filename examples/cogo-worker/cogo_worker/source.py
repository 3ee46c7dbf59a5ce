"""Gets the tree of a request: from a directory, a git repository or an archive.

Leaves the project's root directory under the run's work directory. Reads local
paths only where ``request`` found them inside an allowed root, and copies
them: a run never changes what it was pointed at.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from . import download
from .errors import Refused, Unavailable, from_os_error
from .git import Repository
from .process import CHILDREN, Processes, RunLog, clean_env
from .request import ArchiveUrl, GitUrl, LocalPath, Source
from .settings import Settings

# Made by tools, never part of a project; the others are known by a marker inside.
SKIPPED = frozenset({"__pycache__", "node_modules", ".tox", ".nox"})
MARKERS = ("pyvenv.cfg", "CACHEDIR.TAG")
DEPTH = 64


@dataclass(frozen=True)
class Tree:
    """A project on disk. ``commit`` is None where there is no git."""

    root: Path
    kind: str
    commit: Optional[str] = None


class Fetcher:
    """Fetches the source of one run into ``work``."""

    def __init__(self, work: Path, settings: Settings, processes: Processes, log: RunLog) -> None:
        self._work = work
        self._settings = settings
        self._processes = processes
        self._log = log

    def fetch(self, source: Source, base_ref: Optional[str]) -> Tree:
        """Gets the tree; ``base_ref`` stands in where a git source names no ref."""
        tree = self._work / "tree"
        tree.mkdir()
        if isinstance(source, GitUrl):
            if source.protocol in ("http", "https"):
                download.check_resolved(source.host, "repo")
            return self._git(source.url, source.protocol, source.ref or base_ref, tree)
        if isinstance(source, ArchiveUrl):
            return self._archive(self._download(source), tree)
        return self._local(source, base_ref, tree)

    def _local(self, source: LocalPath, base_ref: Optional[str], tree: Path) -> Tree:
        path = source.path
        if not path.exists():
            raise Refused("repo_not_found", "repo names a local path that does not exist")
        if source.is_archive:
            return self._archive(path, tree)
        if not path.is_dir():
            raise Refused(
                "repo_not_found", "repo names a file that is no source archive",
                "a directory, or .tar.gz, .tar.bz2, .tar.xz, .zip",
            )
        bare = (path / "HEAD").is_file() and (path / "objects").is_dir()
        is_git = bare or (path / ".git").exists()
        ref = source.ref or (base_ref if is_git else None)
        if bare or (is_git and ref is not None):
            return self._git(str(path), "file", ref, tree)
        if ref is not None:
            raise Refused(
                "ref_not_found", "repo is a directory without .git, so it has no refs",
                "leave ref out to test the directory as it is",
            )
        try:
            _Copier(self._settings, self._log).copy(path, tree)
        except OSError as error:
            raise from_os_error(error, "copying the directory") from error
        return Tree(tree, "directory")

    def _git(self, url: str, protocol: str, ref: Optional[str], tree: Path) -> Tree:
        if shutil.which("git") is None:
            raise Unavailable("git_missing", "this worker has no git", retry_after_s=300)
        repository = Repository(
            tree, self._work / "home", protocol, self._processes, self._settings.limits, self._log
        )
        commit = repository.checkout(url, ref)
        return Tree(tree, "git", commit)

    def _download(self, source: ArchiveUrl) -> Path:
        limits = self._settings.limits
        suffix = ".zip" if source.name.lower().endswith(".zip") else ".tar"
        path = self._work / f"source{suffix}"
        try:
            with open(path, "wb") as file:
                size = download.download(
                    source.url,
                    file,
                    field="repo",
                    max_bytes=limits.archive_bytes,
                    timeout_s=limits.fetch_s,
                    settings=self._settings,
                )
        except OSError as error:
            raise from_os_error(error, "storing the archive") from error
        self._log.note(f"downloaded {size} bytes")
        return path

    def _archive(self, path: Path, tree: Path) -> Tree:
        limits = self._settings.limits
        if path.stat().st_size > limits.archive_bytes:
            raise Refused("source_too_large", f"the archive is over {limits.archive_bytes} bytes")
        bounds = [str(limits.source_entries), str(limits.source_bytes)]
        script = str(CHILDREN / "extract.py")
        result = self._processes.run(
            [sys.executable, "-I", "-S", script, str(path), str(tree), *bounds],
            cwd=self._work,
            env=clean_env(self._work / "home"),
            timeout_s=limits.fetch_s,
            log=self._log,
        )
        try:
            answer = json.loads(result.tail.strip().splitlines()[-1])
        except (ValueError, IndexError):
            answer = {}
        if "refused" in answer or result.timed_out:
            reason = answer.get("refused", "takes too long to unpack")
            raise Refused("bad_archive", f"the archive was not unpacked: {reason}")
        if "errno" in answer:
            number = int(answer["errno"])
            raise from_os_error(OSError(number, os.strerror(number)), "unpacking the archive")
        if not result.ok:
            raise Refused("bad_archive", f"unpacking ended by {result.describe()}")
        return Tree(_single_root(tree), "archive")


def _single_root(tree: Path) -> Path:
    """Source archives hold one directory with everything in it; that is the project."""
    entries = [entry for entry in tree.iterdir() if entry.name != "pax_global_header"]
    if len(entries) == 1 and entries[0].is_dir() and not entries[0].is_symlink():
        return entries[0]
    return tree


class _Copier:
    """Copies a directory: files, directories, and links as links; nothing else."""

    def __init__(self, settings: Settings, log: RunLog) -> None:
        self._limits = settings.limits
        self._state_dir = settings.state_dir
        self._log = log
        self._entries = 0
        self._bytes = 0

    def copy(self, source: Path, target: Path, depth: int = 0) -> None:
        if depth > DEPTH:
            raise Refused("source_too_large", f"directories are nested more than {DEPTH} deep")
        for entry in os.scandir(source):
            self._count(entry)
            to = target / entry.name
            if entry.is_symlink():
                os.symlink(os.readlink(entry.path), to)
            elif entry.is_dir():
                if not self._skipped(entry):
                    to.mkdir()
                    self.copy(Path(entry.path), to, depth + 1)
            elif entry.is_file():
                shutil.copyfile(entry.path, to)
                mode = entry.stat(follow_symlinks=False).st_mode
                os.chmod(to, (stat.S_IMODE(mode) | 0o600) & 0o755)
            else:
                self._log.note(f"left out {entry.name!r}: neither file nor directory")

    def _skipped(self, entry: "os.DirEntry[str]") -> bool:
        if entry.name in SKIPPED or Path(entry.path) == self._state_dir:
            return True
        return any(os.path.isfile(os.path.join(entry.path, marker)) for marker in MARKERS)

    def _count(self, entry: "os.DirEntry[str]") -> None:
        self._entries += 1
        if entry.is_file(follow_symlinks=False):
            self._bytes += entry.stat(follow_symlinks=False).st_size
        if self._entries > self._limits.source_entries or self._bytes > self._limits.source_bytes:
            raise Refused(
                "source_too_large",
                f"the directory has more than {self._limits.source_entries} entries"
                f" or {self._limits.source_bytes} bytes",
                "point repo at the project itself, or at a git ref of it",
            )
