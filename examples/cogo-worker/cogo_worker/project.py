"""Reads what a tree declares: which test runner it uses and what it needs.

Reads files only, never runs the project. What it finds is the project's own
word and is passed on to pip as such, checked so that no entry can become an
option of pip.
"""

from __future__ import annotations

import configparser
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Tuple

from .errors import Refused

FILE_BYTES = 1024 * 1024
# Looked at for the choice of runner; more would not change it.
TEST_FILES = 2000
# The runners of projects that are not Python's.
CARGO = "cargo"
NPM = "npm"
# Any of them makes the project Python's, whatever else it holds.
PYTHON_FILES = ("setup.py", "setup.cfg", "tox.ini", "pytest.ini", ".pytest.ini", "requirements.txt")
PYTHON_TOOLS = ("pytest", "poetry", "hatch", "pdm", "flit", "uv")
NOT_SOURCE = frozenset({"build", "dist", "node_modules", "site-packages", "venv", "__pycache__"})

TEST_NAMES = ("test", "tests", "testing")
FALLBACK_NAMES = ("dev",)
TEST_REQUIREMENTS = (
    "requirements-test.txt",
    "requirements-tests.txt",
    "requirements_test.txt",
    "requirements_tests.txt",
    "test-requirements.txt",
    "test_requirements.txt",
    "requirements/test.txt",
    "requirements/tests.txt",
    "requirements/testing.txt",
)
DEV_REQUIREMENTS = (
    "requirements-dev.txt",
    "requirements_dev.txt",
    "dev-requirements.txt",
    "requirements/dev.txt",
)

_REQUIREMENT = re.compile(r"[A-Za-z0-9][^\r\n]{0,500}")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_PYTEST_IMPORT = re.compile(r"^[ \t]*(import|from)[ \t]+_?pytest\b", re.MULTILINE)
_PYTEST_WORD = re.compile(r"(?<![\w-])pytest(?![\w])")
_UNITTEST_IMPORT = re.compile(r"^[ \t]*(import|from)[ \t]+unittest\b", re.MULTILINE)
_TEST_FUNCTION = re.compile(r"^(async )?def test", re.MULTILINE)


@dataclass(frozen=True)
class Project:
    """What the tree declares."""

    runner: str
    # pip arguments that install the project itself, empty where it is run in place.
    install: Tuple[str, ...]
    # pip arguments for what its tests need.
    requirements: Tuple[str, ...]

    @property
    def needs_pip(self) -> bool:
        return bool(self.install or self.requirements)


class ProjectFiles:
    """Reads small regular files of the tree; links are not followed."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def exists(self, name: str) -> bool:
        path = self.root / name
        return path.is_file() and not path.is_symlink()

    def text(self, name: str) -> str:
        """The file's text, at most ``FILE_BYTES`` of it; empty where there is none."""
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            with os.fdopen(os.open(self.root / name, flags), "rb") as file:
                return file.read(FILE_BYTES).decode("utf-8", "replace")
        except OSError:
            return ""

    def ini(self, name: str) -> configparser.ConfigParser:
        """An INI file; an unreadable one counts as empty, as its owner's tools will complain."""
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        try:
            parser.read_string(self.text(name))
        except configparser.Error:
            return configparser.ConfigParser(interpolation=None)
        return parser

    def python_files(self) -> Iterator[Tuple[str, str]]:
        """Path and text of the files that may hold tests."""
        seen = 0
        for directory, names, files in os.walk(self.root):
            names[:] = sorted(n for n in names if n[0] != "." and n not in NOT_SOURCE)
            for name in sorted(files):
                is_test = name.startswith("test") or name.endswith("_test.py")
                if not name.endswith(".py") or not (is_test or name == "conftest.py"):
                    continue
                seen += 1
                if seen > TEST_FILES:
                    return
                path = os.path.relpath(os.path.join(directory, name), self.root)
                yield path, self.text(path)


def inspect(root: Path, read_toml: Callable[[Path], Dict[str, Any]]) -> Project:
    """Reads the project at ``root``; ``read_toml`` parses pyproject.toml."""
    files = ProjectFiles(root)
    pyproject: Dict[str, Any] = {}
    if files.exists("pyproject.toml"):
        if (root / "pyproject.toml").stat().st_size > FILE_BYTES:
            raise Refused("invalid_project", f"pyproject.toml is over {FILE_BYTES} bytes")
        try:
            pyproject = read_toml(root / "pyproject.toml")
        except (ValueError, RecursionError) as error:
            raise Refused("invalid_project", f"pyproject.toml: {error}") from error
    other = _other_runner(files, pyproject)
    if other is not None:
        return Project(other, (), ())
    setup_cfg = files.ini("setup.cfg")
    tox = files.ini("tox.ini")
    install, requirements = _requirements(files, pyproject, setup_cfg, tox)
    runner = _runner(files, pyproject, setup_cfg, tox, requirements)
    return Project(runner, tuple(install), tuple(requirements))


def _other_runner(files: ProjectFiles, pyproject: Mapping[str, Any]) -> Optional[str]:
    """The runner of a project that has a manifest of another language and none of Python's."""
    python = (
        "project" in pyproject
        or "build-system" in pyproject
        or any(tool in _table(pyproject, "tool") for tool in PYTHON_TOOLS)
        or any(files.exists(name) for name in PYTHON_FILES)
    )
    if python:
        return None
    if files.exists("Cargo.toml"):
        return CARGO
    script = _table(_package_json(files), "scripts").get("test")
    # What `npm init` writes where there is nothing to run.
    if isinstance(script, str) and script.strip() and "no test specified" not in script:
        return NPM
    return None


def npm_dependencies(files: ProjectFiles) -> bool:
    """Whether package.json names anything that has to be installed."""
    package = _package_json(files)
    kinds = ("dependencies", "devDependencies", "optionalDependencies", "peerDependencies")
    return any(_table(package, kind) for kind in kinds) or bool(package.get("workspaces"))


def _package_json(files: ProjectFiles) -> Dict[str, Any]:
    try:
        found = json.loads(files.text("package.json") or "{}")
    except (ValueError, RecursionError):
        # npm says so better; without a script there is nothing to run.
        return {}
    return found if isinstance(found, dict) else {}


def _runner(
    files: ProjectFiles,
    pyproject: Mapping[str, Any],
    setup_cfg: configparser.ConfigParser,
    tox: configparser.ConfigParser,
    requirements: List[str],
) -> str:
    """``pytest`` where the project shows that it uses it, else ``unittest``."""
    configured = (
        files.exists("pytest.ini")
        or files.exists(".pytest.ini")
        or "pytest" in _table(pyproject, "tool")
        or setup_cfg.has_section("tool:pytest")
        or tox.has_section("pytest")
        or "pytest" in tox.get("testenv", "commands", fallback="")
        or _declares_pytest(files, pyproject, setup_cfg, requirements)
    )
    if configured:
        return "pytest"
    bare_functions = False
    uses_unittest = False
    for path, text in files.python_files():
        if os.path.basename(path) == "conftest.py" or _PYTEST_IMPORT.search(text):
            return "pytest"
        uses_unittest = uses_unittest or bool(_UNITTEST_IMPORT.search(text))
        bare_functions = bare_functions or bool(_TEST_FUNCTION.search(text))
    return "pytest" if bare_functions and not uses_unittest else "unittest"


def _declares_pytest(
    files: ProjectFiles,
    pyproject: Mapping[str, Any],
    setup_cfg: configparser.ConfigParser,
    requirements: List[str],
) -> bool:
    """Whether pytest is among what the project says it needs."""
    texts = list(requirements)
    texts += [files.text(name) for flag, name in zip(requirements, requirements[1:]) if flag == "-r"]
    texts.append(repr(_table(pyproject, "dependency-groups")))
    texts.append(repr(_table(_table(pyproject, "project"), "optional-dependencies")))
    if setup_cfg.has_section("options.extras_require"):
        texts += [value for _, value in setup_cfg.items("options.extras_require")]
    return any(_PYTEST_WORD.search(text) for text in texts)


def _requirements(
    files: ProjectFiles,
    pyproject: Mapping[str, Any],
    setup_cfg: configparser.ConfigParser,
    tox: configparser.ConfigParser,
) -> Tuple[List[str], List[str]]:
    """pip arguments for the project and for its tests' needs.

    The names for tests (extras, groups, files) are taken together; those for
    development in general only where there are none for tests.
    """
    metadata = _table(pyproject, "project")
    installable = (
        "build-system" in pyproject or files.exists("setup.py") or setup_cfg.has_section("metadata")
    )
    extras = _extras(metadata, setup_cfg)
    groups = [name for name in _table(pyproject, "dependency-groups") if _NAME.fullmatch(name)]

    needs = _for_names(TEST_NAMES, extras, groups, TEST_REQUIREMENTS, files)
    if not needs.found:
        needs = _for_names(FALLBACK_NAMES, extras, groups, DEV_REQUIREMENTS, files)
    arguments = list(needs.arguments)
    if not needs.found:
        arguments += _tox_deps(tox, files)

    wanted_extras = list(needs.extras)
    if files.exists("setup.py") and not extras:
        # Only running setup.py would tell its extras; pip ignores those there are not.
        wanted_extras = list(TEST_NAMES)
    if installable:
        suffix = f"[{','.join(wanted_extras)}]" if wanted_extras else ""
        return ["." + suffix], arguments
    optional = _table(metadata, "optional-dependencies")
    own = _strings(metadata.get("dependencies"))
    for extra in needs.extras:
        own += _strings(optional.get(extra))
    if files.exists("requirements.txt"):
        arguments = ["-r", "requirements.txt"] + arguments
    return [], [need for need in own if _REQUIREMENT.fullmatch(need)] + arguments


@dataclass(frozen=True)
class _Needs:
    extras: Tuple[str, ...]
    arguments: Tuple[str, ...]

    @property
    def found(self) -> bool:
        return bool(self.extras or self.arguments)


def _for_names(
    names: Iterable[str],
    extras: Iterable[str],
    groups: Iterable[str],
    requirement_files: Iterable[str],
    files: ProjectFiles,
) -> _Needs:
    wanted = set(names)
    arguments: List[str] = []
    for group in groups:
        if _normal(group) in wanted:
            arguments += ["--group", group]
    present: Optional[str] = next((name for name in requirement_files if files.exists(name)), None)
    if present:
        arguments += ["-r", present]
    return _Needs(tuple(extra for extra in extras if _normal(extra) in wanted), tuple(arguments))


def _extras(metadata: Mapping[str, Any], setup_cfg: configparser.ConfigParser) -> List[str]:
    names = list(_table(metadata, "optional-dependencies"))
    if setup_cfg.has_section("options.extras_require"):
        names += setup_cfg.options("options.extras_require")
    return [name for name in names if _NAME.fullmatch(name)]


def _tox_deps(tox: configparser.ConfigParser, files: ProjectFiles) -> List[str]:
    """The plain entries of tox's ``deps``: no substitutions, no conditions on an environment."""
    arguments: List[str] = []
    for line in tox.get("testenv", "deps", fallback="").splitlines():
        entry = line.split(" #")[0].strip()
        if "{" in entry or re.match(r"[\w,!-]+\s*:", entry):
            continue
        included = re.fullmatch(r"-r\s*([A-Za-z0-9][\w./-]*)", entry)
        if included:
            if ".." not in included[1] and files.exists(included[1]):
                arguments += ["-r", included[1]]
        elif _REQUIREMENT.fullmatch(entry):
            arguments.append(entry)
    return arguments


def _table(parent: Mapping[str, Any], name: str) -> Dict[str, Any]:
    value = parent.get(name)
    return value if isinstance(value, dict) else {}


def _strings(value: Any) -> List[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
