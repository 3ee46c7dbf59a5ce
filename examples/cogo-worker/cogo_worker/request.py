"""Turns a request body into a checked ``BuildTestRequest``; has the parts for others.

The edge: past this module every value has its type, its bounds and its meaning.
Touches no network, and of the disk only what it takes to resolve a local path.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Union
from urllib.parse import SplitResult, unquote, urlsplit

from .errors import Refused
from .settings import Settings

ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar", ".zip")
FIELDS = ("task_id", "repo", "ref", "edits_url", "trace_id")
LABEL_CHARS = 256
URL_CHARS = 2048

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
# Narrower than git's own rule: no leading dash, no revision syntax.
_REF = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./+@#-]{0,254}")
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*")
_SCP = re.compile(r"(?P<user>[A-Za-z0-9_][A-Za-z0-9_.-]*)@(?P<host>[^:/@]+):(?P<path>[^:].*)")


@dataclass(frozen=True)
class GitUrl:
    """A remote repository over https, http or ssh."""

    url: str
    host: str
    protocol: str
    ref: Optional[str]


@dataclass(frozen=True)
class LocalPath:
    """A file or directory inside an allowed root: a tree, a repository or an archive."""

    path: Path
    ref: Optional[str]
    is_archive: bool


@dataclass(frozen=True)
class ArchiveUrl:
    """A source archive to download."""

    url: str
    name: str


Source = Union[GitUrl, LocalPath, ArchiveUrl]


@dataclass(frozen=True)
class BuildTestRequest:
    """One request for ``/run/build-test``, checked."""

    task_id: str
    trace_id: str
    repo: str
    ref: Optional[str]
    edits_url: Optional[str]
    source: Source

    def fingerprint(self) -> str:
        """What the idempotency key stands for: everything but the trace, which
        says who asks and not what is asked."""
        return fingerprint("build-test", self.task_id, self.repo, self.ref, self.edits_url)


def fingerprint(*asked: Any) -> str:
    """A digest of what is asked for; the first part is the operation."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode("utf-8")).hexdigest()


def invalid(message: str, hint: str = "", code: str = "invalid_request") -> Refused:
    return Refused(code, message, hint, status=400)


def parse_json(body: bytes) -> Any:
    """Strict JSON: UTF-8, no repeated keys, no NaN, no absurd nesting."""
    try:
        return json.loads(
            body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except UnicodeDecodeError as error:
        raise invalid(f"the body is not UTF-8 (byte {error.start})", code="invalid_json") from error
    except RecursionError as error:
        raise invalid("the body is nested too deeply", code="invalid_json") from error
    except ValueError as error:
        raise invalid(f"the body is not JSON: {error}", code="invalid_json") from error


def _unique(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    found: Dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:80]!r} occurs twice")
        found[key] = value
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON value")


def parse_build_test(document: Any, settings: Settings) -> BuildTestRequest:
    """Checks every field; raises ``Refused`` with status 400 or 403."""
    if not isinstance(document, dict):
        raise invalid("the body must be a JSON object", f"fields: {', '.join(FIELDS)}")
    unknown = sorted(set(document) - set(FIELDS))
    if unknown:
        raise invalid(
            f"unknown field {unknown[0][:80]!r}",
            f"known fields: {', '.join(FIELDS)}",
            code="unknown_field",
        )
    repo = text(document, "repo", URL_CHARS, required=True)
    ref = text(document, "ref", 255)
    edits_url = text(document, "edits_url", URL_CHARS)
    if ref is not None:
        check_ref(ref)
    if edits_url is not None:
        check_http_url(edits_url, "edits_url", settings)
    return BuildTestRequest(
        task_id=text(document, "task_id", LABEL_CHARS, required=True) or "",
        trace_id=text(document, "trace_id", LABEL_CHARS, required=True) or "",
        repo=repo or "",
        ref=ref,
        edits_url=edits_url,
        source=parse_source(repo or "", ref, settings),
    )


def parse_key(value: Optional[str]) -> Optional[str]:
    """The ``idempotency-key`` header, or None when there is none."""
    if value is None:
        return None
    if not _KEY.fullmatch(value):
        raise invalid("idempotency-key must be 1 to 255 visible ASCII characters")
    return value


def text(
    document: Dict[str, Any], field: str, max_chars: int, required: bool = False
) -> Optional[str]:
    """A field that is one line of text; None where it is missing and may be."""
    value = document.get(field)
    if value is None:
        if required:
            raise invalid(f"{field} is missing", f"required: {field}, a string")
        return None
    if not isinstance(value, str):
        raise invalid(f"{field} must be a string, not {type(value).__name__}")
    if not value.strip():
        raise invalid(f"{field} is empty")
    if len(value) > max_chars:
        raise invalid(f"{field} is longer than {max_chars} characters")
    if _CONTROL.search(value):
        raise invalid(f"{field} contains control characters")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise invalid(f"{field} contains half a surrogate pair") from error
    return value


def check_ref(ref: str, field: str = "ref") -> None:
    """A branch, tag or commit; nothing that git could read as something else."""
    bad = (
        not _REF.fullmatch(ref)
        or any(part in ref for part in ("..", "@{", "//"))
        or ref.endswith(("/", ".", ".lock"))
    )
    if bad:
        raise invalid(
            f"{field} is not a usable branch, tag or commit",
            "letters, digits and _ . / + @ # -, starting with a letter, digit or _",
        )


def split_url(url: str, field: str) -> SplitResult:
    """Splits a URL; refuses one that carries credentials or no sensible host."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise invalid(f"{field} is not a URL: {error}") from error
    if not parts.hostname or not _HOST.fullmatch(parts.hostname):
        raise invalid(f"{field} has no valid host")
    if parts.password is not None or (parts.username and parts.scheme != "ssh"):
        raise invalid(
            f"{field} carries credentials",
            "requests are logged and stored; give the worker access another way",
        )
    if parts.username and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", parts.username):
        raise invalid(f"{field} has an unusable user name")
    if " " in url or "\\" in url:
        raise invalid(f"{field} contains a space or a backslash", "percent-encode it")
    return parts


def check_host(host: str, field: str, settings: Settings) -> None:
    """Applies the operator's list of hosts, if there is one."""
    if settings.hosts is not None and host.lower() not in settings.hosts:
        raise Refused(
            "host_not_allowed",
            f"{field} names the host {host}, which this worker may not contact",
            f"start the worker with --allow-host {host}",
            status=403,
        )


def check_http_url(url: str, field: str, settings: Settings) -> SplitResult:
    """An http or https URL that the policy allows."""
    if urlsplit_scheme(url) not in ("http", "https"):
        raise invalid(f"{field} must be an http or https URL")
    parts = split_url(url, field)
    check_host(parts.hostname or "", field, settings)
    return parts


def urlsplit_scheme(url: str) -> str:
    """The scheme in lower case, or an empty string."""
    scheme, separator, _ = url.partition("://")
    return scheme.lower() if separator else ""


def parse_source(repo: str, ref: Optional[str], settings: Settings) -> Source:
    """Says what ``repo`` is: a path, a git URL or an archive URL."""
    scheme = urlsplit_scheme(repo)
    if scheme == "file":
        parts = urlsplit(repo)
        if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
            raise invalid("repo is not a usable file URL", "file:///absolute/path")
        return _local(unquote(parts.path), ref, settings)
    if scheme in ("http", "https"):
        parts = check_http_url(repo, "repo", settings)
        if parts.path.lower().endswith(ARCHIVE_SUFFIXES):
            _no_ref(ref)
            return ArchiveUrl(repo, parts.path.rsplit("/", 1)[-1])
        if parts.query or parts.fragment:
            raise invalid("repo is a git URL with a query or fragment", "put the branch into ref")
        return GitUrl(repo, parts.hostname or "", scheme, ref)
    if scheme == "ssh":
        parts = split_url(repo, "repo")
        check_host(parts.hostname or "", "repo", settings)
        return GitUrl(repo, parts.hostname or "", "ssh", ref)
    if scheme:
        raise invalid(
            f"repo has the scheme {scheme[:20]!r}, which is not supported",
            "https, http, ssh, file, or a local path",
        )
    return _scp(repo, ref, settings) or _local(repo, ref, settings)


def _scp(repo: str, ref: Optional[str], settings: Settings) -> Optional[GitUrl]:
    """``user@host:path``, git's short form of an ssh URL."""
    match = _SCP.fullmatch(repo)
    if match is None:
        return None
    if not _HOST.fullmatch(match["host"]) or match["path"].startswith("-"):
        raise invalid("repo is not a usable ssh address", "git@host:owner/name.git")
    check_host(match["host"], "repo", settings)
    return GitUrl(repo, match["host"], "ssh", ref)


def _local(text: str, ref: Optional[str], settings: Settings) -> LocalPath:
    """Resolves a path; a relative one is looked up in the roots in their order."""
    if "\x00" in text or not text:
        raise invalid("repo is not a usable path")
    given = Path(text)
    candidates = [given] if given.is_absolute() else [root / given for root in settings.roots]
    try:
        resolved = [candidate.resolve() for candidate in candidates]
        inside = [path for path in resolved if _within(path, settings.roots)]
        path = next((path for path in inside if path.exists()), inside[0] if inside else None)
    except (OSError, RuntimeError) as error:
        raise invalid(f"repo cannot be resolved: {error}") from error
    if path is None:
        raise Refused(
            "outside_roots",
            "repo is a local path outside the directories this worker may read",
            "start the worker with --allow-root DIR, or use a URL",
            status=403,
        )
    is_archive = path.name.lower().endswith(ARCHIVE_SUFFIXES) and not path.is_dir()
    if is_archive:
        _no_ref(ref)
    return LocalPath(path, ref, is_archive)


def _within(path: Path, roots: Tuple[Path, ...]) -> bool:
    return any(path == root or root in path.parents for root in roots)


def _no_ref(ref: Optional[str]) -> None:
    if ref is not None:
        raise invalid("repo is an archive, which has no refs", "leave ref out")
