"""The edits of a request: downloaded, checked, then applied to the tree.

    { "edits": [ { "path": "src/a.py", "content": "…" },
                 { "path": "old.py", "delete": true } ], "base_ref": "main" }

Never leaves the tree: every path is walked with open directories and without
following links, so that no link in the tree, whoever made it, leads out.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, List, Optional, Tuple

from .download import download
from .errors import Refused
from .request import check_ref, parse_json
from .settings import Limits, Settings

PATH_CHARS = 1024
PATH_DEPTH = 40


@dataclass(frozen=True)
class Edit:
    """One file to write, or to delete where ``content`` is None."""

    path: Tuple[str, ...]
    content: Optional[bytes]

    @property
    def name(self) -> str:
        return "/".join(self.path)


@dataclass(frozen=True)
class Edits:
    """A checked edits document. ``base_ref`` is what it was written against."""

    edits: Tuple[Edit, ...]
    base_ref: Optional[str]


def bad(message: str, hint: str = "") -> Refused:
    return Refused("invalid_edits", message, hint)


def fetch(url: str, settings: Settings) -> Edits:
    """Downloads and checks the document at ``url``."""
    buffer = io.BytesIO()
    limits = settings.limits
    download(
        url,
        buffer,
        field="edits_url",
        max_bytes=limits.edits_bytes,
        timeout_s=limits.fetch_s,
        settings=settings,
    )
    try:
        document = parse_json(buffer.getvalue())
    except Refused as error:
        raise bad(f"edits_url: {error.message}") from error
    return parse(document, limits)


def parse(document: Any, limits: Limits) -> Edits:
    """Checks the whole document, so that edits are applied all or not at all."""
    if not isinstance(document, dict) or not isinstance(document.get("edits"), list):
        raise bad("the edits must be an object with a list `edits`")
    unknown = set(document) - {"edits", "base_ref"}
    if unknown:
        raise bad(f"unknown field {sorted(unknown)[0][:80]!r} beside `edits`")
    if len(document["edits"]) > limits.edits_count:
        raise bad(f"more than {limits.edits_count} edits")
    base_ref = document.get("base_ref")
    if base_ref is not None:
        if not isinstance(base_ref, str):
            raise bad("base_ref must be a string")
        try:
            check_ref(base_ref, "base_ref")
        except Refused as error:
            raise bad(error.message, error.hint) from error
    edits: List[Edit] = []
    seen = set()
    for index, item in enumerate(document["edits"]):
        edit = _parse_edit(item, f"edits[{index}]")
        if edit.path in seen:
            raise bad(f"edits[{index}]: {edit.name} is edited twice")
        seen.add(edit.path)
        edits.append(edit)
    return Edits(tuple(edits), base_ref)


def _parse_edit(item: Any, place: str) -> Edit:
    if not isinstance(item, dict):
        raise bad(f"{place} is not an object")
    path = _parse_path(item.get("path"), place)
    if set(item) == {"path", "delete"} and item["delete"] is True:
        return Edit(path, None)
    if set(item) == {"path", "content"} and isinstance(item["content"], str):
        try:
            return Edit(path, item["content"].encode("utf-8"))
        except UnicodeEncodeError as error:
            raise bad(f"{place}: content is not valid Unicode") from error
    raise bad(
        f"{place} is neither a write nor a deletion",
        '{"path": "…", "content": "…"} or {"path": "…", "delete": true}',
    )


def _parse_path(value: Any, place: str) -> Tuple[str, ...]:
    if not isinstance(value, str) or not value or len(value) > PATH_CHARS:
        raise bad(f"{place}: path must be a string of 1 to {PATH_CHARS} characters")
    parts = tuple(value.split("/"))
    climbing = any(part in ("", ".", "..") for part in parts)
    if climbing or "\x00" in value or "\\" in value or len(parts) > PATH_DEPTH:
        raise Refused(
            "edit_outside_tree",
            f"{place}: {value[:200]!r} is not a plain path inside the project",
            "relative, with forward slashes, without . and ..",
        )
    if any(part.lower() == ".git" for part in parts):
        raise Refused("edit_outside_tree", f"{place}: .git is not part of the project")
    return parts


def apply(edits: Edits, tree: Path) -> None:
    """Applies the edits to ``tree``."""
    for edit in edits.edits:
        try:
            directory = _open_directory(tree, edit)
            try:
                if edit.content is None:
                    os.unlink(edit.path[-1], dir_fd=directory)
                else:
                    _write(directory, edit.path[-1], edit.content)
            finally:
                os.close(directory)
        except FileNotFoundError as error:
            raise Refused(
                "edit_target_missing",
                f"{edit.name} is to be deleted but does not exist",
                "were the edits made against another ref?",
            ) from error
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EPERM, errno.ENXIO):
                raise Refused(
                    "edit_outside_tree",
                    f"{edit.name} is a directory, or a link is on the way to it",
                ) from error
            if error.errno in (errno.ENAMETOOLONG, errno.EINVAL):
                raise bad(f"{edit.name}: {error.strerror}") from error
            raise


def _open_directory(tree: Path, edit: Edit) -> int:
    """Opens the directory an edit is in, making it for a write; follows no link."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    current = os.open(tree, flags)
    try:
        for part in edit.path[:-1]:
            if edit.content is not None:
                try:
                    os.mkdir(part, dir_fd=current)
                except FileExistsError:
                    pass
            following = os.open(part, flags, dir_fd=current)
            os.close(current)
            current = following
        return current
    except BaseException:
        os.close(current)
        raise


def _write(directory: int, name: str, content: bytes) -> None:
    # Replaced, not overwritten: a hard link to something else stays as it was.
    mode = 0o644
    try:
        present = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if not stat.S_ISREG(present.st_mode):
            raise OSError(errno.ELOOP, "not a regular file", name)
        mode = stat.S_IMODE(present.st_mode) | 0o600
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(name, flags, mode, dir_fd=directory), "wb") as file:
        file.write(content)
