"""Applies checked edits to a tree: all of them or none.

Never leaves the tree: every path is walked with open directories and without
following links, so that no link in the tree, whoever made it, leads out. What
an edit finds is compared with what it was written against before anything is
changed; what fails while things change is undone.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, List, Optional, Tuple

from . import diffs
from .edits import Delete, Edit, Edits, Patch, Write, bad, digest_of
from .errors import Refused
from .settings import Limits

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_IN_THE_WAY = (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EPERM, errno.ENXIO, errno.EEXIST)


@dataclass(frozen=True)
class _Step:
    """What is to become of one file: its content and mode, or None where it goes."""

    edit: Edit
    content: Optional[bytes]
    mode: int
    present: bool


def apply(edits: Edits, tree: Path, limits: Limits) -> None:
    """Applies the edits to ``tree``, or raises and leaves it as it was."""
    steps = [_plan(edit, f"edits[{at}]", tree, limits) for at, edit in enumerate(edits.edits)]
    total = sum(len(step.content or b"") for step in steps)
    if total > limits.edited_bytes:
        raise Refused(
            "edits_too_large", f"the edited files come to {total} bytes; at most {limits.edited_bytes}"
        )
    # Beside the tree: what is replaced waits there until all is done.
    aside = Path(tempfile.mkdtemp(prefix="edits-", dir=tree.parent))
    undo: List[Callable[[], None]] = []
    try:
        for number, step in enumerate(steps):
            _carry_out(step, tree, aside / str(number), undo)
    except BaseException:
        for action in reversed(undo):
            action()
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def read(tree: Path, path: Tuple[str, ...], max_bytes: int) -> Optional[bytes]:
    """The content of a regular file of the tree; None where there is none.

    Raises OSError where a link or a directory is in the way, or it is too large.
    """
    found = _read(tree, path, max_bytes)
    return found[0] if found else None


def _read(tree: Path, path: Tuple[str, ...], max_bytes: int) -> Optional[Tuple[bytes, int]]:
    """Content and mode."""
    try:
        directory = _open_directory(tree, path)
    except FileNotFoundError:
        return None
    try:
        # Not to wait for the other end of a pipe.
        descriptor = os.open(path[-1], _FLAGS | os.O_NONBLOCK, dir_fd=directory)
    except FileNotFoundError:
        return None
    finally:
        os.close(directory)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        content = file.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        return content, stat.S_IMODE(found.st_mode)


def refuse(error: OSError, name: str, place: str, limits: Limits) -> Refused:
    """The answer to a file of the tree that cannot be edited; raises what is no matter of the edit."""
    if error.errno in _IN_THE_WAY:
        return Refused(
            "edit_outside_tree",
            f"{place}: {name} is no regular file, or a link or a file is on the way to it",
            "edits write, change and delete regular files and follow no links",
        )
    if error.errno == errno.EFBIG:
        return Refused(
            "edits_too_large", f"{place}: {name} is over {limits.edited_bytes} bytes",
            "a file that large is not edited",
        )
    if error.errno in (errno.ENAMETOOLONG, errno.EINVAL):
        return bad(f"{place}: {name}: {error.strerror}")
    raise error


def _plan(edit: Edit, place: str, tree: Path, limits: Limits) -> _Step:
    try:
        found = _read(tree, edit.path, limits.edited_bytes)
    except OSError as error:
        raise refuse(error, edit.name, place, limits) from error
    if found is None:
        if isinstance(edit.change, Write) and edit.base_digest is None:
            return _Step(edit, edit.change.content, 0o644, False)
        raise Refused(
            "edit_target_missing",
            f"{place}: {edit.name} is to be {_verb(edit)} but does not exist",
            "were the edits made against another ref?",
        )
    content, mode = found
    if edit.base_digest is not None and edit.base_digest != digest_of(content):
        raise Refused(
            "edit_base_mismatch",
            f"{place}: {edit.name} has the digest {digest_of(content)}, the edit was written"
            f" against {edit.base_digest}",
            "make the edits again from this ref, or name the ref they were made from",
        )
    return _Step(edit, _after(edit, content, place), mode | 0o600, True)


def _verb(edit: Edit) -> str:
    if isinstance(edit.change, Delete):
        return "deleted"
    return "changed by a diff" if isinstance(edit.change, Patch) else "replaced"


def _after(edit: Edit, before: bytes, place: str) -> Optional[bytes]:
    if isinstance(edit.change, Write):
        return edit.change.content
    if isinstance(edit.change, Delete):
        return None
    try:
        return diffs.apply(edit.change.hunks, before)
    except diffs.DiffError as error:
        raise Refused(
            "edit_does_not_apply",
            f"{place}: the diff of {edit.name} does not apply: {error}",
            "make the diff again from this ref, or name the ref it was made from",
        ) from error


def _carry_out(
    step: _Step, tree: Path, aside: Path, undo: List[Callable[[], None]]
) -> None:
    """Moves what is there out of the way, then writes; notes how to undo each."""
    path = step.edit.path
    directory = _open_directory(tree, path, make=step.content is not None, undo=undo)
    try:
        if step.present:
            # Moved, not overwritten: a hard link to something else stays as it was.
            os.rename(path[-1], aside, src_dir_fd=directory)
            undo.append(lambda: _move_back(aside, tree, path))
        if step.content is not None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(path[-1], flags, step.mode, dir_fd=directory)
            undo.append(lambda: _remove(tree, path))
            with os.fdopen(descriptor, "wb") as file:
                file.write(step.content)
                os.fchmod(descriptor, step.mode)
    finally:
        os.close(directory)


def _move_back(aside: Path, tree: Path, path: Tuple[str, ...]) -> None:
    directory = _open_directory(tree, path)
    try:
        os.rename(aside, path[-1], dst_dir_fd=directory)
    finally:
        os.close(directory)


def _remove(tree: Path, path: Tuple[str, ...], is_directory: bool = False) -> None:
    directory = _open_directory(tree, path)
    try:
        if is_directory:
            os.rmdir(path[-1], dir_fd=directory)
        else:
            os.unlink(path[-1], dir_fd=directory)
    finally:
        os.close(directory)


def _open_directory(
    tree: Path,
    path: Tuple[str, ...],
    make: bool = False,
    undo: Optional[List[Callable[[], None]]] = None,
) -> int:
    """Opens the directory that ``path`` is in, following no link; makes it if told to."""
    flags = _FLAGS | os.O_DIRECTORY
    current = os.open(tree, flags)
    try:
        for depth, part in enumerate(path[:-1], start=1):
            if make:
                try:
                    os.mkdir(part, dir_fd=current)
                    if undo is not None:
                        made = path[:depth]
                        undo.append(lambda made=made: _remove(tree, made, is_directory=True))
                except FileExistsError:
                    pass
            following = os.open(part, flags, dir_fd=current)
            os.close(current)
            current = following
        return current
    except BaseException:
        os.close(current)
        raise
