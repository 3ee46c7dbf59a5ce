"""Writes what a run leaves behind, such as report.json, junit.xml and log.txt.

The names here are all that is ever served of a run.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple
from xml.etree import ElementTree

from .results import ERROR, EXPECTED_FAILURE, FAILED, SKIPPED, TestResult, count

REPORT = "report.json"
JUNIT = "junit.xml"
LOG = "log.txt"
EDITS = "edits.json"
STDOUT = "stdout.txt"
STDERR = "stderr.txt"
CONTENT_TYPES = {
    REPORT: "application/json",
    JUNIT: "text/xml; charset=utf-8",
    LOG: "text/plain; charset=utf-8",
    EDITS: "application/json",
    STDOUT: "text/plain; charset=utf-8",
    STDERR: "text/plain; charset=utf-8",
}
_JUNIT_TAGS = {FAILED: "failure", ERROR: "error", SKIPPED: "skipped", EXPECTED_FAILURE: "skipped"}


def write_report(directory: Path, about: Dict[str, Any], files: List[str]) -> None:
    """Writes report.json: what there is to say ``about`` the run, and what lies beside it."""
    document = dict(about, files=files)
    write_whole(directory / REPORT, json.dumps(document, indent=1).encode("utf-8"))


def write_junit(directory: Path, results: List[TestResult], duration_ms: int) -> None:
    """Writes junit.xml, in the shape that CI systems read."""
    counts = count(results)
    attributes = {
        "name": "cogo-worker",
        "tests": str(counts.tests),
        "failures": str(counts.failures - counts.errors),
        "errors": str(counts.errors),
        "skipped": str(sum(r.outcome in (SKIPPED, EXPECTED_FAILURE) for r in results)),
        "time": f"{duration_ms / 1000:.3f}",
    }
    root = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(root, "testsuite", attributes)
    for result in results:
        classname, name = _split(result.id)
        case = ElementTree.SubElement(
            suite,
            "testcase",
            {"classname": classname, "name": name, "time": f"{result.duration_ms / 1000:.3f}"},
        )
        tag: Optional[str] = _JUNIT_TAGS.get(result.outcome)
        if tag:
            # The last line of a traceback is the one that says what happened.
            lines = result.message.strip().splitlines() or [result.outcome]
            element = ElementTree.SubElement(case, tag, {"message": lines[-1][:500]})
            element.text = result.message
    content = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    write_whole(directory / JUNIT, content)


def _split(name: str) -> Tuple[str, str]:
    """Class and test of an id, which joins them with ``::`` (pytest) or ``.`` (unittest)."""
    separator = "::" if "::" in name else "."
    classname, _, test = name.rpartition(separator)
    return classname, test


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file so that it is there completely or not at all, also after a crash."""
    temporary = path.with_name(path.name + ".part")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
