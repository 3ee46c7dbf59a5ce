"""One codegen run: a specification becomes an ``edits.json``.

By rules (``spec``) or from edits that the specification holds, against a tree
where the request names one. What it writes has been applied once, so that it
applies. Runs no code of the project.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, List, Optional, Tuple, Union

from . import apply, diffs, spec
from .edits import Delete, Edit, Edits, Patch, Write, digest_of, parse, render
from .errors import Refused
from .frame import Finished, Frame, frame
from .process import Processes
from .report import EDITS, LOG, REPORT, write_report, write_whole
from .request import (
    LABEL_CHARS, URL_CHARS, Source, check_ref, fingerprint, invalid, parse_source, text,
)
from .settings import Limits, Settings
from .source import Fetcher, Tree

# Beyond it a diff costs more time than it saves space.
DIFF_LINES = 5000


@dataclass(frozen=True)
class CodegenRequest:
    """One request for ``/run/codegen``, checked."""

    task_id: str
    trace_id: str
    spec: Any
    repo: Optional[str]
    ref: Optional[str]
    source: Optional[Source]
    wanted: Union[Tuple[spec.Rule, ...], Edits]

    def fingerprint(self) -> str:
        """What the idempotency key stands for."""
        return fingerprint("codegen", self.task_id, self.spec, self.repo, self.ref)


def parse_codegen(document: Any, settings: Settings) -> CodegenRequest:
    """Checks every field that codegen knows; the others are somebody else's."""
    if not isinstance(document, dict):
        raise invalid("the body must be a JSON object", "fields: task_id, trace_id, spec, repo, ref")
    task_id = text(document, "task_id", LABEL_CHARS, required=True) or ""
    trace_id = text(document, "trace_id", LABEL_CHARS, required=True) or ""
    repo = text(document, "repo", URL_CHARS)
    ref = text(document, "ref", 255)
    if ref is not None:
        check_ref(ref)
        if repo is None:
            raise invalid("ref is given without repo", "ref is a branch, tag or commit of repo")
    wanted = _wanted(document.get("spec"), settings.limits)
    if repo is None and not isinstance(wanted, Edits) and spec.needs_base(wanted):
        raise invalid(
            "repo is missing: the spec changes files that it does not create",
            "repo (and ref): where the project is", code="repo_required",
        )
    source = parse_source(repo, ref, settings) if repo is not None else None
    return CodegenRequest(task_id, trace_id, document["spec"], repo, ref, source, wanted)


def _wanted(value: Any, limits: Limits) -> Union[Tuple[spec.Rule, ...], Edits]:
    if value is None or value == "" or value == [] or value == {}:
        raise invalid("spec is missing or empty", spec.RULES, code="invalid_spec")
    if not isinstance(value, dict) or "edits" not in value:
        return spec.parse_rules(value)
    try:
        return parse(value, limits)
    except Refused as error:
        raise invalid(f"spec: {error.message}", error.hint, code=error.code) from error


class Codegen:
    """Carries out codegen requests."""

    def __init__(self, settings: Settings, processes: Processes) -> None:
        self._settings = settings
        self._processes = processes

    def execute(self, run_id: str, request: CodegenRequest, report_dir: Path) -> Finished:
        """Runs ``request``; leaves edits.json in ``report_dir``."""
        about = {
            "task_id": request.task_id,
            "trace_id": request.trace_id,
            "repo": request.repo,
            "ref": request.ref,
        }
        with frame(self._settings, run_id, report_dir, about) as run:
            tree = self._tree(request, run)
            with run.step("edits"):
                edits = self._edits(request, tree)
                # A commit, not a branch: what the edits were made against does not move.
                base_ref = (tree and tree.commit) or edits.base_ref or request.ref
                edits = replace(edits, task_id=request.task_id, base_ref=base_ref)
                write_whole(report_dir / EDITS, render(edits, self._settings.limits))
            fields = {"files": len(edits.edits), "duration_ms": run.duration_ms()}
            run.about["edits"] = [_told(edit) for edit in edits.edits]
            run.about["base_ref"] = base_ref
            write_report(report_dir, dict(run.described(), **fields), [REPORT, EDITS, LOG])
            return Finished(fields, {"edits_url": EDITS, "report_url": REPORT})

    def _tree(self, request: CodegenRequest, run: Frame) -> Optional[Tree]:
        if request.source is None:
            return None
        with run.step("source"):
            base_ref = request.wanted.base_ref if isinstance(request.wanted, Edits) else None
            fetcher = Fetcher(run.work, self._settings, self._processes, run.log)
            tree = fetcher.fetch(request.source, base_ref)
            run.about["source"] = {"kind": tree.kind, "commit": tree.commit}
            return tree

    def _edits(self, request: CodegenRequest, tree: Optional[Tree]) -> Edits:
        limits = self._settings.limits
        if isinstance(request.wanted, Edits):
            edits = request.wanted
        else:
            changed = spec.evaluate(request.wanted, _reader(tree, limits))
            edits = Edits(tuple(_edit(file) for file in changed))
        if not edits.edits:
            raise Refused("nothing_to_do", "the spec changes no file", spec.RULES)
        if tree is not None:
            # The tree is a copy of this run: what applies here applies later.
            apply.apply(edits, tree.root, limits)
        return edits


def _reader(tree: Optional[Tree], limits: Limits) -> Any:
    def read(path: Tuple[str, ...], place: str) -> Optional[bytes]:
        if tree is None:
            return None
        try:
            return apply.read(tree.root, path, limits.edited_bytes)
        except OSError as error:
            raise apply.refuse(error, "/".join(path), place, limits) from error

    return read


def _edit(file: spec.Changed) -> Edit:
    """The shortest edit that makes ``before`` into ``after``."""
    base_digest = None if file.before is None else digest_of(file.before)
    if file.after is None:
        return Edit(file.path, Delete(), base_digest)
    name = "/".join(file.path)
    try:
        content = file.after.decode("utf-8")
        diff = _diff(name, file.before, file.after) if file.before is not None else None
    except UnicodeDecodeError as error:
        raise Refused(
            "not_text", f"{name} is not UTF-8 text, so no edit can hold it",
            "only text files are edited",
        ) from error
    if diff is not None and len(diff) < len(content):
        return Edit(file.path, Patch(diff, diffs.parse(diff, name)), base_digest)
    return Edit(file.path, Write(file.after), base_digest)


def _diff(name: str, before: bytes, after: bytes) -> Optional[str]:
    lines: List[bytes] = diffs.split(before)
    if len(lines) > DIFF_LINES or len(diffs.split(after)) > DIFF_LINES:
        return None
    return diffs.make(name, before, after)


def _told(edit: Edit) -> Any:
    """An edit in the report: what it does to which file."""
    return {"path": edit.name, "kind": type(edit.change).__name__.lower()}
