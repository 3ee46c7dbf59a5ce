"""What test runners print, read line by line as it comes: libtest and node's kin.

Pure. These runners have no other output that every version writes, so what a
test prints can look like theirs; where a summary and the lines above it differ,
the summary counts.
"""

from __future__ import annotations

import re
from typing import Dict, List, Optional, Tuple

from .results import (
    ERROR, EXPECTED_FAILURE, FAILED, MESSAGE_CHARS, PASSED, SKIPPED, TestResult, result_of,
)

LINE_BYTES = 16 * 1024
# No suite has more; a flood of lines that look like results ends here.
NAMED = 100_000
COUNTED = 10_000_000

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class Lines:
    """Cuts output into lines and hands each to ``line``."""

    def __init__(self) -> None:
        self._rest = b""
        self._skipping = False

    def feed(self, chunk: bytes) -> bool:
        """Takes some more output; always wants more."""
        *complete, self._rest = (self._rest + chunk).split(b"\n")
        for content in complete:
            if not self._skipping:
                self._take(content)
            self._skipping = False
        if len(self._rest) > LINE_BYTES:
            if not self._skipping:
                self._take(self._rest)
            self._rest, self._skipping = b"", True
        return True

    def close(self) -> None:
        """The output has ended; its last line may lack an end."""
        if self._rest and not self._skipping:
            self._take(self._rest)
        self._rest = b""

    def _take(self, content: bytes) -> None:
        text = content[:LINE_BYTES].decode("utf-8", "replace").rstrip("\r")
        self.line(_ANSI.sub("", text))

    def line(self, text: str) -> None:
        """Takes one line, without its end and without colours."""
        raise NotImplementedError


def fill(named: List[TestResult], counts: Dict[str, int]) -> List[TestResult]:
    """As many results of each outcome as ``counts`` says, with the names there are."""
    results: List[TestResult] = []
    for outcome, wanted in counts.items():
        known = [result for result in named if result.outcome == outcome][:wanted]
        results += known
        for number in range(len(known), min(wanted, NAMED)):
            results.append(TestResult(f"({outcome} test {number + 1})", outcome))
    return results


class Libtest(Lines):
    """The output of ``cargo test``: one section for each test program."""

    _PROGRAM = re.compile(r"\s+Running (?:unittests )?(\S+)(?: \(.*\))?|\s+(Doc-tests \S+)")
    _RUNNING = re.compile(r"running (\d{1,7}) tests?")
    _TEST = re.compile(r"test (.+?) \.\.\. (ok|FAILED|ignored)(?:, .*)?(?: <[\d.]+s>)?")
    _OUTPUT = re.compile(r"---- (.+) stdout ----")
    _SUMMARY = re.compile(
        r"test result: (?:ok|FAILED)\. (\d{1,7}) passed; (\d{1,7}) failed; (\d{1,7}) ignored;.*"
    )
    _OUTCOMES = {"ok": PASSED, "FAILED": FAILED, "ignored": SKIPPED}

    def __init__(self) -> None:
        super().__init__()
        self.results: List[TestResult] = []
        # A test program that has begun and not ended.
        self.unfinished: Optional[str] = None
        self.programs = 0
        self._program = ""
        self._named: List[Tuple[str, str]] = []
        self._messages: Dict[str, List[str]] = {}
        # Whose output is being shown, once the failures are listed.
        self._shown: Optional[str] = None
        self._listing = False

    def line(self, text: str) -> None:
        program = self._PROGRAM.fullmatch(text)
        if program is not None:
            self._program = program[1] or program[2]
            self.programs += 1
        elif self._RUNNING.fullmatch(text):
            self._end_section()
            self.unfinished = self._program or "(test program)"
        elif self.unfinished is not None:
            self._inside(text)

    def _inside(self, text: str) -> None:
        summary = self._SUMMARY.fullmatch(text)
        if summary is not None:
            passed, failed, ignored = (int(number) for number in summary.groups())
            named = [self._result(name, outcome) for name, outcome in self._named]
            self.results += fill(named, {PASSED: passed, FAILED: failed, SKIPPED: ignored})
            self._named, self._messages, self._shown = [], {}, None
            self._listing, self.unfinished = False, None
            return
        output = self._OUTPUT.fullmatch(text)
        if text == "failures:":
            self._listing, self._shown = True, None
        elif self._listing and output is not None:
            self._shown = output[1]
            self._messages[output[1]] = []
        elif self._listing:
            self._keep_message(text)
        elif len(self._named) < NAMED:
            test = self._TEST.fullmatch(text)
            if test is not None:
                self._named.append((test[1], self._OUTCOMES[test[2]]))

    def _keep_message(self, text: str) -> None:
        if self._shown is not None:
            kept = self._messages[self._shown]
            if sum(map(len, kept)) < MESSAGE_CHARS:
                kept.append(text)

    def _result(self, name: str, outcome: str) -> TestResult:
        message = "\n".join(self._messages.get(name, [])).strip()
        return result_of(f"{self.unfinished}::{name}", outcome, 0.0, message)

    def _end_section(self) -> None:
        """A program that ended without a summary: what it had named still counts."""
        if self.unfinished is not None:
            self.results += [self._result(name, outcome) for name, outcome in self._named]
            self.results.append(result_of(self.unfinished, ERROR, 0.0, "the test program broke off"))
        self._named, self._messages, self._shown, self._listing = [], {}, None, False

    def close(self) -> None:
        super().close()
        if self.unfinished is not None:
            self.results += [self._result(name, outcome) for name, outcome in self._named]
            self._named = []


class NodeOutput(Lines):
    """The output of a JavaScript test script: TAP, node, mocha, jest, vitest."""

    _TAP = re.compile(r"TAP version 1[34]")
    _RESULT = re.compile(r"( *)(not )?ok\b(?: \d+)?(?: -)? *(.*)")
    _DIRECTIVE = re.compile(r"(.*?)\s*# (SKIP|TODO)\b.*", re.IGNORECASE)
    # node's own summary, as TAP comments or in its `spec` style.
    _NODE = re.compile(r"(?:#|ℹ) (tests|pass|fail|cancelled|skipped|todo) +(\d{1,7})")
    _FAILING = re.compile(r"✖ (.+?) \([\d.]+ms\)")
    _MOCHA = re.compile(r"\s+(\d{1,7}) (passing|failing|pending)(?: \(.*\))?")
    _JEST = re.compile(r"\s*Tests:?\s+(\d.*)")
    _PART = re.compile(r"(\d{1,7}) (passed|failed|skipped|todo)")
    _OUTCOMES = {
        "pass": PASSED, "passing": PASSED, "passed": PASSED,
        "fail": FAILED, "failing": FAILED, "failed": FAILED, "cancelled": FAILED,
        "skipped": SKIPPED, "pending": SKIPPED, "todo": EXPECTED_FAILURE,
    }

    def __init__(self) -> None:
        super().__init__()
        self._tap = False
        self._named: List[TestResult] = []
        self._counts: Dict[str, int] = {}
        self._listing = False
        # Of the result above: its name, its outcome, and what its block says.
        self._open: Optional[Tuple[str, str]] = None
        self._block: List[str] = []

    @property
    def counted(self) -> bool:
        """Whether the output was of a kind that can be counted."""
        return bool(self._counts or self._named)

    def results(self) -> List[TestResult]:
        """What was found so far."""
        self._settle()
        if not self._counts:
            return list(self._named)
        return fill(self._named, self._counts)

    def line(self, text: str) -> None:
        if self._TAP.fullmatch(text):
            self._tap = True
        elif not self._summary(text):
            if self._tap:
                self._tap_line(text)
            elif text.strip() == "✖ failing tests:":
                self._listing = True
            elif self._listing and len(self._named) < NAMED:
                failing = self._FAILING.fullmatch(text)
                if failing is not None:
                    self._named.append(result_of(failing[1], FAILED, 0.0, ""))

    def _summary(self, text: str) -> bool:
        match = self._NODE.fullmatch(text) or None
        if match is not None:
            self._add(match[1], match[2])
            return True
        match = self._MOCHA.fullmatch(text)
        if match is not None and not self._tap:
            self._add(match[2], match[1])
            return True
        match = self._JEST.fullmatch(text)
        if match is None or self._tap:
            return False
        for number, word in self._PART.findall(match[1]):
            self._add(word, number)
        return True

    def _add(self, word: str, number: str) -> None:
        outcome = self._OUTCOMES.get(word)
        if outcome is not None:
            total = self._counts.get(outcome, 0) + int(number)
            self._counts[outcome] = min(total, COUNTED)

    def _tap_line(self, text: str) -> None:
        match = self._RESULT.fullmatch(text)
        if match is None:
            if self._open is not None and sum(map(len, self._block)) < MESSAGE_CHARS:
                self._block.append(text)
            return
        self._settle()
        name, outcome = match[3], FAILED if match[2] else PASSED
        directive = self._DIRECTIVE.fullmatch(name)
        if directive is not None:
            name = directive[1]
            outcome = SKIPPED if directive[2].upper() == "SKIP" else EXPECTED_FAILURE
        self._open = (name, outcome)

    def _settle(self) -> None:
        """The block of a result says whether it was a test or only held some."""
        if self._open is not None and len(self._named) < NAMED:
            name, outcome = self._open
            block = [line.strip() for line in self._block]
            if "type: 'suite'" not in block:
                message = "\n".join(self._block) if outcome == FAILED else ""
                self._named.append(result_of(name or "(no name)", outcome, _duration(block), message))
        self._open, self._block = None, []


def _duration(block: List[str]) -> float:
    for line in block:
        if line.startswith("duration_ms: "):
            try:
                return float(line[len("duration_ms: "):])
            except ValueError:
                return 0.0
    return 0.0
