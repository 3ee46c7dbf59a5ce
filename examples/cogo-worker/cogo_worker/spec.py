"""The specifications that codegen understands: rules, in lines or as JSON.

Pure. A specification has one meaning or is refused with what would be
understood: nothing here guesses, and the same one always gives the same edits.

    replace "wait 5" with "wait 9" in docs/usage.md
    replace all colour with color in src/app.py
    create src/hello.py with block
    ```
    print("hello")
    ```
    add block to src/app.py
    ```
    def bye():
        return "bye"
    ```
    append "last line\\n" to CHANGES
    delete old.py
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Tuple, Union

from .edits import parse_path
from .errors import Refused
from .request import invalid

RULES = (
    'replace [all] TEXT with TEXT in FILE; create FILE with TEXT; add TEXT to FILE;'
    ' append TEXT to FILE; delete FILE; TEXT is "quoted", a word, or `block` for the fenced'
    " block below; or JSON: { rules: […] } or { edits: […] }"
)
FENCE = "```"
RULES_COUNT = 1000

_TOKEN = re.compile(r'\s*(?:("(?:[^"\\]|\\.)*")|([^\s"]+))')

Path = Tuple[str, ...]


@dataclass(frozen=True)
class Replace:
    """Every occurrence if ``every``, else the only one there is."""

    path: Path
    old: bytes
    new: bytes
    every: bool


@dataclass(frozen=True)
class Create:
    """A file that must not be there yet."""

    path: Path
    content: bytes


@dataclass(frozen=True)
class Append:
    """At the end of a file; ``apart`` keeps it a paragraph of its own."""

    path: Path
    content: bytes
    apart: bool


@dataclass(frozen=True)
class Remove:
    """A file that must be there."""

    path: Path


Rule = Union[Replace, Create, Append, Remove]


@dataclass(frozen=True)
class Changed:
    """One file, before and after all rules; None where it is not there."""

    path: Path
    before: Optional[bytes]
    after: Optional[bytes]


def bad(message: str, hint: str = RULES) -> Refused:
    return invalid(message, hint, code="invalid_spec")


def parse_rules(spec: Any) -> Tuple[Rule, ...]:
    """Reads a specification that is text, a list of rules, or an object that holds one."""
    if isinstance(spec, str):
        rules = _Lines(spec).rules()
    elif isinstance(spec, list):
        rules = [_structured(item, f"rule {at}") for at, item in enumerate(spec, start=1)]
    elif isinstance(spec, dict) and set(spec) == {"rules"} and isinstance(spec["rules"], list):
        return parse_rules(spec["rules"])
    else:
        raise bad("spec is neither text nor an object with a list `rules` or `edits`")
    if not rules:
        raise bad("spec has no rule")
    if len(rules) > RULES_COUNT:
        raise bad(f"spec has {len(rules)} rules; at most {RULES_COUNT}", "split it into several tasks")
    return tuple(rules)


class _Lines:
    """A specification in lines, read from the top."""

    def __init__(self, text: str) -> None:
        self._lines = text.replace("\r\n", "\n").split("\n")
        self._at = 0

    def rules(self) -> List[Rule]:
        found: List[Rule] = []
        while self._at < len(self._lines):
            line = self._lines[self._at].strip()
            self._at += 1
            if line and not line.startswith("#"):
                found.append(self._rule(line, f"line {self._at}"))
        return found

    def _rule(self, line: str, place: str) -> Rule:
        words = _Words(line, place, self._block)
        verb = words.word().lower()
        if verb == "replace":
            every = words.skip("all")
            old = words.text()
            words.expect("with")
            new = words.text()
            words.expect("in")
            return words.end(_replace(words.path(), old, new, every, place))
        if verb == "create":
            path = words.path()
            words.expect("with")
            return words.end(Create(path, words.text()))
        if verb in ("add", "append"):
            content = words.text()
            words.expect("to")
            return words.end(Append(words.path(), content, apart=verb == "add"))
        if verb == "delete":
            return words.end(Remove(words.path()))
        raise bad(f"{place} of spec is no rule that this worker knows: {ascii(line[:80])}")

    def _block(self, place: str) -> str:
        """The next fenced block."""
        while self._at < len(self._lines) and not self._lines[self._at].strip():
            self._at += 1
        if self._at == len(self._lines) or not self._lines[self._at].startswith(FENCE):
            raise bad(f"{place} of spec names a block, but none follows it",
                      f"a line {FENCE}, the text, a line {FENCE}")
        # A longer fence may hold a shorter one.
        fence = re.match("`+", self._lines[self._at])
        assert fence is not None
        start = self._at + 1
        for at in range(start, len(self._lines)):
            if self._lines[at].rstrip() == fence[0]:
                self._at = at + 1
                return "".join(line + "\n" for line in self._lines[start:at])
        raise bad(f"the block that begins in line {start} of spec has no end", f"a line {fence[0]}")


class _Words:
    """One line of a specification, word by word."""

    def __init__(self, line: str, place: str, block: Callable[[str], str]) -> None:
        self._place = place
        self._block = block
        self._tokens: List[Tuple[bool, str]] = []
        at = 0
        while at < len(line):
            match = _TOKEN.match(line, at)
            if match is None:
                raise bad(f"{place} of spec has a quotation mark without its partner",
                          'inside quotation marks, \\" stands for one and \\n for a new line')
            quoted, plain = match.groups()
            self._tokens.append((True, self._unquote(quoted)) if quoted else (False, plain))
            at = match.end()

    def _unquote(self, token: str) -> str:
        try:
            return str(json.loads(token, strict=False))
        except ValueError as error:
            raise bad(f"{self._place} of spec: {token[:80]} cannot be read: {error}",
                      "quoted text is written as in JSON") from error

    def _next(self, wanted: str) -> Tuple[bool, str]:
        if not self._tokens:
            raise bad(f"{self._place} of spec ends where {wanted} should follow")
        return self._tokens.pop(0)

    def word(self) -> str:
        quoted, word = self._next("a rule")
        return "" if quoted else word

    def skip(self, word: str) -> bool:
        if self._tokens and self._tokens[0] == (False, word):
            self._tokens.pop(0)
            return True
        return False

    def expect(self, word: str) -> None:
        if self._next(f"`{word}`") != (False, word):
            raise bad(f"{self._place} of spec lacks the word `{word}`; quote texts of several words")

    def text(self) -> bytes:
        quoted, text = self._next("a text")
        if not quoted and text == "block":
            text = self._block(self._place)
        return _encode(text, f"{self._place} of spec")

    def path(self) -> Path:
        return _path(self._next("a file")[1], f"{self._place} of spec")

    def end(self, rule: Rule) -> Rule:
        if self._tokens:
            raise bad(f"{self._place} of spec goes on after its rule; quote texts of several words")
        return rule


def _structured(item: Any, place: str) -> Rule:
    if not isinstance(item, dict):
        raise bad(f"{place} of spec is not an object")
    keys = set(item)
    texts = {key: value for key, value in item.items() if isinstance(value, str)}
    if keys - {"all"} == {"replace", "with", "in"} == set(texts) - {"all"}:
        every = item.get("all", False)
        if not isinstance(every, bool):
            raise bad(f"{place} of spec: `all` must be true or false")
        old, new = _encode(texts["replace"], place), _encode(texts["with"], place)
        return _replace(_path(texts["in"], place), old, new, every, place)
    if keys == {"create", "content"} == set(texts):
        return Create(_path(texts["create"], place), _encode(texts["content"], place))
    for verb in ("add", "append"):
        if keys == {verb, "to"} == set(texts):
            content = _encode(texts[verb], place)
            return Append(_path(texts["to"], place), content, apart=verb == "add")
    if keys == {"delete"} == set(texts):
        return Remove(_path(texts["delete"], place))
    raise bad(
        f"{place} of spec has no known set of fields: {', '.join(sorted(map(str, keys)))[:80]}",
        '{"replace", "with", "in", "all"?}, {"create", "content"}, {"add", "to"},'
        ' {"append", "to"} or {"delete"}, all strings but `all`',
    )


def _replace(path: Path, old: bytes, new: bytes, every: bool, place: str) -> Replace:
    if not old:
        raise bad(f"{place} of spec replaces an empty text", "name what is to be replaced")
    return Replace(path, old, new, every)


def _path(text: str, place: str) -> Path:
    try:
        return parse_path(text, place)
    except Refused as error:
        raise bad(error.message, error.hint) from error


def _encode(text: str, place: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise bad(f"{place} is not valid Unicode", "half a surrogate pair cannot be written") from error


def needs_base(rules: Tuple[Rule, ...]) -> bool:
    """Whether a rule speaks of a file that no rule before it created."""
    created = set()
    for rule in rules:
        if isinstance(rule, Create):
            created.add(rule.path)
        elif rule.path not in created:
            return True
    return False


def evaluate(
    rules: Tuple[Rule, ...], read: Callable[[Path, str], Optional[bytes]]
) -> List[Changed]:
    """Carries out the rules in their order on what ``read`` gives; returns what changed."""
    before: Dict[Path, Optional[bytes]] = {}
    now: Dict[Path, Optional[bytes]] = {}
    for number, rule in enumerate(rules, start=1):
        place = f"rule {number}"
        if rule.path not in now:
            before[rule.path] = now[rule.path] = read(rule.path, place)
        now[rule.path] = _one(rule, now[rule.path], place)
    return [Changed(path, before[path], now[path]) for path in now if before[path] != now[path]]


def _one(rule: Rule, content: Optional[bytes], place: str) -> Optional[bytes]:
    name = "/".join(rule.path)
    if isinstance(rule, Create):
        if content is not None:
            raise _no_match(f"{place} creates {name}, which exists", "use replace, or delete it first")
        return rule.content
    if content is None:
        raise _no_match(f"{place}: there is no file {name}", "was it made by another ref?")
    if isinstance(rule, Remove):
        return None
    if isinstance(rule, Append):
        return content + _gap(content) + rule.content if rule.apart else content + rule.content
    found = content.count(rule.old)
    if found == 0:
        raise _no_match(f"{place}: {name} does not hold the text to be replaced", "compare it by letter")
    if found > 1 and not rule.every:
        raise _no_match(
            f"{place}: {name} holds the text to be replaced {found} times",
            "give more of what is around it, or say `replace all`",
        )
    return content.replace(rule.old, rule.new)


def _gap(content: bytes) -> bytes:
    """What ends the last line and leaves one empty line."""
    if not content or content.endswith(b"\n\n"):
        return b""
    return b"\n" if content.endswith(b"\n") else b"\n\n"


def _no_match(message: str, hint: str) -> Refused:
    return Refused("rule_does_not_apply", message, hint)
