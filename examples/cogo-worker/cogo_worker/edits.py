"""The format ``edits.json``: read strictly, written in one canonical form.

``EDITS.md`` describes it and ``edits.schema.json`` is its shape; this module is
what both speak of. Touches no tree: ``apply`` carries edits out.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from dataclasses import dataclass
from typing import Any, Dict, Optional, Tuple, Union

from . import diffs
from .download import download
from .errors import Refused
from .request import LABEL_CHARS, check_ref, parse_json
from .settings import Limits, Settings

VERSION = 1
FIELDS = ("version", "task_id", "base_ref", "edits", "digest")
PATH_CHARS = 1024
PATH_DEPTH = 40

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Write:
    """The file becomes ``content``, whatever was there."""

    content: bytes


@dataclass(frozen=True)
class Patch:
    """The file, which must be there, is changed by a unified diff."""

    text: str
    hunks: Tuple[diffs.Hunk, ...]


@dataclass(frozen=True)
class Delete:
    """The file, which must be there, goes."""


Change = Union[Write, Patch, Delete]


@dataclass(frozen=True)
class Edit:
    """One file. ``base_digest`` is of the content that the edit was written against."""

    path: Tuple[str, ...]
    change: Change
    base_digest: Optional[str] = None

    @property
    def name(self) -> str:
        return "/".join(self.path)


@dataclass(frozen=True)
class Edits:
    """A checked document. ``base_ref`` is what it was written against."""

    edits: Tuple[Edit, ...]
    base_ref: Optional[str] = None
    task_id: Optional[str] = None

    @property
    def needs_base(self) -> bool:
        """Whether it can be checked only against the tree it was written for."""
        return any(not isinstance(edit.change, Write) or edit.base_digest for edit in self.edits)


def bad(message: str, hint: str = "") -> Refused:
    return Refused("invalid_edits", message, hint)


def digest_of(content: bytes) -> str:
    """A digest as the format writes it."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def canonical(document: Dict[str, Any]) -> bytes:
    """The bytes that the document's digest is of: all of it but the digest.

    JSON in UTF-8 with sorted keys, without white space, escaping only what JSON
    must (RFC 8785 for the values that the format has).
    """
    body = {key: value for key, value in document.items() if key != "digest"}
    text = json.dumps(body, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return text.encode("utf-8")


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


def render(edits: Edits, limits: Limits) -> bytes:
    """The document as it is stored: complete, with its digest, checked as if it came in."""
    document: Dict[str, Any] = {"version": VERSION, "edits": [_item(edit) for edit in edits.edits]}
    if edits.task_id is not None:
        document["task_id"] = edits.task_id
    if edits.base_ref is not None:
        document["base_ref"] = edits.base_ref
    document["digest"] = digest_of(canonical(document))
    parse(document, limits)
    content = json.dumps(document, ensure_ascii=False, indent=1).encode("utf-8") + b"\n"
    if len(content) > limits.edits_bytes:
        raise Refused(
            "edits_too_large", f"the edits come to more than {limits.edits_bytes} bytes",
            "split the change into several tasks",
        )
    return content


def _item(edit: Edit) -> Dict[str, Any]:
    item: Dict[str, Any] = {"path": edit.name}
    if isinstance(edit.change, Write):
        item["content"] = edit.change.content.decode("utf-8")
    elif isinstance(edit.change, Patch):
        item["diff"] = edit.change.text
    else:
        item["delete"] = True
    if edit.base_digest is not None:
        item["base_digest"] = edit.base_digest
    return item


def parse(document: Any, limits: Limits) -> Edits:
    """Checks the whole document, so that nothing is applied of a wrong one."""
    if not isinstance(document, dict) or not isinstance(document.get("edits"), list):
        raise bad("the document must be an object with a list `edits`", "see EDITS.md")
    unknown = sorted(set(document) - set(FIELDS))
    if unknown:
        raise bad(f"unknown field {unknown[0][:80]!r}", f"known fields: {', '.join(FIELDS)}")
    version = document.get("version", VERSION)
    if type(version) is not int or version != VERSION:
        raise bad(f"version must be {VERSION}, the only one there is")
    if len(document["edits"]) > limits.edits_count:
        raise Refused(
            "edits_too_large", f"{len(document['edits'])} edits; at most {limits.edits_count}",
            "split the change into several tasks",
        )
    edits = tuple(_parse_edit(item, f"edits[{at}]") for at, item in enumerate(document["edits"]))
    _check_apart(edits)
    # After the fields, whose complaints say more than a digest can.
    _check_digest(document)
    return Edits(edits, _parse_base_ref(document), _parse_task_id(document))


def _check_digest(document: Dict[str, Any]) -> None:
    if "digest" not in document:
        return
    given = document["digest"]
    if not isinstance(given, str) or not _DIGEST.fullmatch(given):
        raise bad("digest must be sha256: and 64 hexadecimal digits in lower case")
    try:
        found = digest_of(canonical(document))
    except UnicodeEncodeError as error:
        raise bad("the document holds half a surrogate pair") from error
    if given != found:
        raise Refused(
            "edits_digest_mismatch",
            f"digest is {given}, the digest of the document is {found}",
            "the document was changed after it was written; EDITS.md says what the digest is of",
        )


def _parse_base_ref(document: Dict[str, Any]) -> Optional[str]:
    base_ref = document.get("base_ref")
    if base_ref is None:
        return None
    if not isinstance(base_ref, str):
        raise bad("base_ref must be a string")
    try:
        check_ref(base_ref, "base_ref")
    except Refused as error:
        raise bad(error.message, error.hint) from error
    return base_ref


def _parse_task_id(document: Dict[str, Any]) -> Optional[str]:
    task_id = document.get("task_id")
    if task_id is None:
        return None
    if not isinstance(task_id, str) or not 0 < len(task_id) <= LABEL_CHARS:
        raise bad(f"task_id must be a string of 1 to {LABEL_CHARS} characters")
    return task_id


def _check_apart(edits: Tuple[Edit, ...]) -> None:
    """No file twice, and none where another edit needs a directory."""
    seen: Dict[Tuple[str, ...], int] = {}
    for index, edit in enumerate(edits):
        if edit.path in seen:
            raise bad(
                f"edits[{index}]: {edit.name} is edited twice, first in edits[{seen[edit.path]}]",
                "one edit for each file",
            )
        seen[edit.path] = index
    for index, edit in enumerate(edits):
        for depth in range(1, len(edit.path)):
            above = edit.path[:depth]
            if above in seen:
                raise bad(
                    f"edits[{index}]: {edit.name} is below {'/'.join(above)},"
                    f" which edits[{seen[above]}] says is a file"
                )


def _parse_edit(item: Any, place: str) -> Edit:
    if not isinstance(item, dict):
        raise bad(f"{place} is not an object")
    path = parse_path(item.get("path"), place)
    base_digest = item.get("base_digest")
    if "base_digest" in item:
        if not isinstance(base_digest, str) or not _DIGEST.fullmatch(base_digest):
            raise bad(f"{place}: base_digest must be sha256: and 64 hexadecimal digits in lower case")
    kinds = set(item) - {"path", "base_digest"}
    if kinds == {"delete"} and item["delete"] is True:
        return Edit(path, Delete(), base_digest)
    if kinds == {"content"} and isinstance(item["content"], str):
        return Edit(path, Write(_encode(item["content"], place)), base_digest)
    if kinds == {"diff"} and isinstance(item["diff"], str):
        return Edit(path, _parse_diff(item["diff"], path, place), base_digest)
    raise bad(
        f"{place} is none of a write, a diff and a deletion",
        'beside "path" exactly one of "content": "…", "diff": "…", "delete": true',
    )


def _encode(text: str, place: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise bad(f"{place}: content is not valid Unicode") from error


def _parse_diff(text: str, path: Tuple[str, ...], place: str) -> Patch:
    try:
        return Patch(text, diffs.parse(text, "/".join(path)))
    except diffs.DiffError as error:
        raise bad(f"{place}: {error}", "a unified diff of this one file, as `diff -u` writes it") from error


def parse_path(value: Any, place: str) -> Tuple[str, ...]:
    """A path inside the project; ``place`` says where it was found."""
    if not isinstance(value, str) or not value or len(value) > PATH_CHARS:
        raise bad(f"{place}: path must be a string of 1 to {PATH_CHARS} characters")
    parts = tuple(value.split("/"))
    climbing = any(part in ("", ".", "..") for part in parts)
    if climbing or "\\" in value or len(parts) > PATH_DEPTH or not value.isprintable():
        raise Refused(
            "edit_outside_tree",
            f"{place}: {ascii(value[:200])} is not a plain path inside the project",
            f"relative, with forward slashes, without . and .., at most {PATH_DEPTH} deep",
        )
    # Some file systems drop the dots and spaces at the end of a name.
    if any(part.rstrip(". ").lower() == ".git" for part in parts):
        raise Refused(
            "edit_outside_tree", f"{place}: {value[:200]} is in .git, which is not part of the project",
            "edit the project's own files",
        )
    return parts
