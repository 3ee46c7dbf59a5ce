"""Unified diffs of one file: read strictly, applied exactly, written.

Pure: works on bytes in memory. A hunk applies at the line its head names or not
at all. There is no fuzz and no search for a better place, so that a diff has one
result or an error, never a guess.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import List, Optional, Tuple

NO_NEWLINE = "\\ No newline at end of file"
SHOWN_CHARS = 80

_HEAD = re.compile(r"@@ -(\d{1,9})(?:,(\d{1,9}))? \+(\d{1,9})(?:,(\d{1,9}))? @@(?: .*)?")
_PREAMBLE = ("diff --git ", "index ", "--- ", "+++ ")


class DiffError(Exception):
    """The diff is malformed, or is not one of this file."""


@dataclass(frozen=True)
class Hunk:
    """One change: the lines from ``start`` (counted from 0) that are ``old`` become ``new``."""

    start: int
    old: Tuple[bytes, ...]
    new: Tuple[bytes, ...]


def parse(text: str, path: str) -> Tuple[Hunk, ...]:
    """Reads a diff of the file ``path``."""
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    at = 0
    while at < len(lines) and not lines[at].startswith("@@"):
        _check_preamble(lines[at], at, path)
        at += 1
    hunks: List[Hunk] = []
    while at < len(lines):
        hunk, at = _parse_hunk(lines, at)
        hunks.append(hunk)
    if not hunks:
        raise DiffError("the diff has no hunk, which begins with @@ -LINE,COUNT +LINE,COUNT @@")
    return tuple(hunks)


def _check_preamble(line: str, at: int, path: str) -> None:
    if not line.startswith(_PREAMBLE):
        raise DiffError(f"line {at + 1} of the diff is no part of a unified diff: {_show(line)}")
    if not line.startswith(("--- ", "+++ ")):
        return
    name = line[4:].partition("\t")[0]
    if name == "/dev/null":
        raise DiffError("the diff creates or deletes a file; that takes `content` or `delete`")
    if path not in (name, name[2:] if name[:2] in ("a/", "b/") else name):
        raise DiffError(f"line {at + 1} of the diff names another file, {_show(name)}")


def _parse_hunk(lines: List[str], at: int) -> Tuple[Hunk, int]:
    head = _HEAD.fullmatch(lines[at])
    if head is None:
        raise DiffError(f"line {at + 1} of the diff is no head of a hunk: {_show(lines[at])}")
    start, old_left, new_left = int(head[1]), _count(head[2]), _count(head[4])
    if old_left:
        start -= 1
    if start < 0:
        raise DiffError(f"line {at + 1} of the diff: lines are counted from 1")
    old: List[bytes] = []
    new: List[bytes] = []
    at += 1
    while old_left or new_left:
        if at == len(lines):
            raise DiffError(f"the last hunk is {max(old_left, new_left)} lines short of its head")
        kind, content = lines[at][:1], _bytes(lines[at][1:])
        if kind not in (" ", "-", "+"):
            raise DiffError(
                f"line {at + 1} of the diff begins with neither space, - nor +, or the hunk"
                f" above it is shorter than its head says: {_show(lines[at])}"
            )
        at += 1
        if at < len(lines) and lines[at].startswith("\\"):
            at += 1
        else:
            content += b"\n"
        if kind != "+":
            old.append(content)
            old_left -= 1
        if kind != "-":
            new.append(content)
            new_left -= 1
        if old_left < 0 or new_left < 0:
            raise DiffError(f"line {at} of the diff: the hunk is longer than its head says")
    return Hunk(start, tuple(old), tuple(new)), at


def _count(text: Optional[str]) -> int:
    return 1 if text is None else int(text)


def _bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DiffError("the diff is not valid Unicode") from error


def apply(hunks: Tuple[Hunk, ...], before: bytes) -> bytes:
    """The file after the diff."""
    lines = split(before)
    after: List[bytes] = []
    at = 0
    for number, hunk in enumerate(hunks, start=1):
        if hunk.start < at:
            raise DiffError(f"hunk {number} begins before the one above it has ended")
        after += lines[at : hunk.start]
        for offset, wanted in enumerate(hunk.old):
            _check_line(lines, hunk.start + offset, wanted, number)
        if hunk.start > len(lines):
            raise DiffError(f"hunk {number} is past the end: the file has {len(lines)} lines")
        after += hunk.new
        at = hunk.start + len(hunk.old)
    after += lines[at:]
    if any(not line.endswith(b"\n") for line in after[:-1]):
        raise DiffError("a line that is not the last would have no newline")
    return b"".join(after)


def _check_line(lines: List[bytes], at: int, wanted: bytes, number: int) -> None:
    if at >= len(lines):
        raise DiffError(
            f"hunk {number} expects {_show(wanted)} in line {at + 1}, the file has {len(lines)} lines"
        )
    if lines[at] != wanted:
        raise DiffError(
            f"hunk {number} expects {_show(wanted)} in line {at + 1}, the file has {_show(lines[at])}"
        )


def make(path: str, before: bytes, after: bytes) -> str:
    """The diff that ``apply`` turns ``before`` into ``after`` with; both are UTF-8."""
    old = [line.decode("utf-8") for line in split(before)]
    new = [line.decode("utf-8") for line in split(after)]
    out: List[str] = []
    for line in difflib.unified_diff(old, new, f"a/{path}", f"b/{path}"):
        out.append(line if line.endswith("\n") else f"{line}\n{NO_NEWLINE}\n")
    return "".join(out)


def split(content: bytes) -> List[bytes]:
    """Lines with their newline; only ``\\n`` ends one."""
    lines = content.split(b"\n")
    last = lines.pop()
    return [line + b"\n" for line in lines] + ([last] if last else [])


def _show(text: "str | bytes") -> str:
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    return ascii(text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + "…")
