"""What a test run found: one result for each test, and how they are counted.

Reads the two formats that the runners write. The files were written by a
process that ran the project's code, so nothing in them is taken for granted.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple
from xml.etree import ElementTree

# Outcomes; the first two count as failures.
FAILED = "failed"
ERROR = "error"
PASSED = "passed"
SKIPPED = "skipped"
EXPECTED_FAILURE = "expected_failure"
OUTCOMES = frozenset({FAILED, ERROR, PASSED, SKIPPED, EXPECTED_FAILURE})
FAILURES = frozenset({FAILED, ERROR})

FILE_BYTES = 64 * 1024 * 1024
ID_CHARS = 1024
MESSAGE_CHARS = 8192
# The id under which a run is listed that ended badly as a whole.
WHOLE_RUN = "(test run)"


@dataclass(frozen=True)
class TestResult:
    """One test. ``message`` says why it failed or was skipped."""

    # Not a test case of this project's own suite.
    __test__ = False

    id: str
    outcome: str
    duration_ms: float = 0.0
    message: str = ""

    @property
    def failed(self) -> bool:
        return self.outcome in FAILURES


@dataclass(frozen=True)
class Counts:
    """``tests`` counts every test, skipped ones too; errors count as failures."""

    tests: int
    failures: int
    errors: int
    skipped: int


def count(results: List[TestResult]) -> Counts:
    """Counts results; ``failures`` includes ``errors``."""
    return Counts(
        tests=len(results),
        failures=sum(result.failed for result in results),
        errors=sum(result.outcome == ERROR for result in results),
        skipped=sum(result.outcome == SKIPPED for result in results),
    )


def described(results: List[TestResult]) -> Dict[str, Any]:
    """The results in full and their other counts, for the report."""
    counts = count(results)
    return {
        "errors": counts.errors,
        "skipped": counts.skipped,
        "results": [
            {
                "id": result.id,
                "outcome": result.outcome,
                "duration_ms": round(result.duration_ms, 3),
                "message": result.message,
            }
            for result in results
        ],
    }


def result_of(name: Any, outcome: str, ms: Any, message: Any) -> TestResult:
    """A result from what a test process wrote, made fit to be shown and stored."""
    milliseconds = float(ms) if isinstance(ms, (int, float)) else 0.0
    if not math.isfinite(milliseconds) or milliseconds < 0:
        milliseconds = 0.0
    # Control characters could not be written as XML again.
    plain = "".join(
        char if char in "\n\t" or (char >= " " and not "\ud800" <= char <= "\udfff"
                                   and char not in "\x7f\ufffe\uffff") else "?"
        for char in str(message or "")[:MESSAGE_CHARS]
    )
    label = "".join(char if char.isprintable() else "?" for char in str(name)[:ID_CHARS])
    return TestResult(label, outcome, milliseconds, plain)


@dataclass(frozen=True)
class EventLog:
    """What the event file of a run says."""

    results: Tuple[TestResult, ...]
    # Started and not ended: where a killed run stood.
    unfinished: Optional[str]
    ended: bool


def read_events(path: Path) -> EventLog:
    """Reads an event file; lines that are not events are passed over."""
    results: Dict[int, TestResult] = {}
    last_of: Dict[str, int] = {}
    unfinished: Optional[str] = None
    ended = False
    for line in _bytes(path).splitlines():
        try:
            event = json.loads(line)
            kind, name = event["event"], str(event.get("id", ""))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
        if kind == "start":
            unfinished = name
            last_of.pop(name, None)
        elif kind == "result" and event.get("outcome") in OUTCOMES:
            unfinished = None
            found = result_of(name, event["outcome"], event.get("ms"), event.get("message"))
            # A second result of the same start is its tear-down.
            index = last_of.get(name, len(results))
            results[index] = found
            last_of[name] = index
        elif kind == "end":
            ended = True
    return EventLog(tuple(results.values()), unfinished, ended)


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses a document type, and with it entities."""

    def doctype(self, name: str, pubid: str, system: str) -> None:
        raise ValueError("a JUnit file has no document type")


def read_junit(path: Path) -> Optional[List[TestResult]]:
    """Reads a JUnit XML file; None where there is none that can be read."""
    content = _bytes(path)
    if not content:
        return None
    try:
        parser = ElementTree.XMLParser(target=_NoDoctype())
        parser.feed(content)
        root = parser.close()
    except (ElementTree.ParseError, ValueError, RecursionError):
        return None
    results: List[TestResult] = []
    failed_at: Dict[str, int] = {}
    for case in root.iter("testcase"):
        result = _junit_case(case)
        # pytest lists a test twice whose call and whose tear-down both failed.
        if result.failed and result.id in failed_at:
            continue
        if result.failed:
            failed_at[result.id] = len(results)
        results.append(result)
    return results


def _junit_case(case: ElementTree.Element) -> TestResult:
    parts = [case.get("classname") or "", case.get("name") or ""]
    name = "::".join(part for part in parts if part)
    try:
        ms = float(case.get("time") or 0) * 1000
    except ValueError:
        ms = 0.0
    for tag, outcome in (("error", ERROR), ("failure", FAILED), ("skipped", SKIPPED)):
        found = case.find(tag)
        if found is not None:
            if found.get("type") == "pytest.xfail":
                outcome = EXPECTED_FAILURE
            return result_of(name, outcome, ms, found.text or found.get("message"))
    return result_of(name, PASSED, ms, "")


def _bytes(path: Path) -> bytes:
    try:
        if path.is_symlink() or path.stat().st_size > FILE_BYTES:
            return b""
        return path.read_bytes()
    except OSError:
        return b""
