"""What is read out of a tree, without running anything."""

import tempfile
import unittest
from pathlib import Path

from cogo_worker.project import inspect


FUNCTION = "def test_a(): pass\n"
UNITTEST = "import unittest\nclass T(unittest.TestCase):\n  def test_a(self): pass\n"
BUILD = '[build-system]\nrequires = []\n[project]\nname = "x"\n'


class Inspect(unittest.TestCase):
    def inspect(self, files, pyproject=None):
        with tempfile.TemporaryDirectory() as directory:
            for name, content in files.items():
                path = Path(directory, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content)
            return inspect(Path(directory), self.parse if pyproject is None else lambda _: pyproject)

    def parse(self, path):
        raise AssertionError("there is no pyproject.toml to parse")

    def test_runner(self):
        for runner, files in (
            ("unittest", {}),
            ("unittest", {"test_a.py": UNITTEST}),
            ("unittest", {"test_a.py": UNITTEST + FUNCTION}),
            ("unittest", {"setup.cfg": "[metadata]\nname = x\n", "test_a.py": UNITTEST}),
            ("unittest", {"test_a.py": UNITTEST, "venv/test_b.py": "import pytest"}),
            ("pytest", {"test_a.py": FUNCTION}),
            ("pytest", {"a_test.py": FUNCTION}),
            ("pytest", {"test_a.py": UNITTEST, "tests/deep/conftest.py": ""}),
            ("pytest", {"test_a.py": "from pytest import mark\n" + UNITTEST}),
            ("pytest", {"pytest.ini": ""}),
            ("pytest", {"setup.cfg": "[tool:pytest]\n"}),
            ("pytest", {"tox.ini": "[pytest]\n"}),
            ("pytest", {"tox.ini": "[testenv]\ncommands = pytest -q\n"}),
            ("cargo", {"Cargo.toml": "", "package.json": '{"scripts": {"test": "x"}}', "test_a.py": FUNCTION}),
            ("npm", {"package.json": '{"scripts": {"test": "x"}}'}),
            ("unittest", {"package.json": '{"scripts": {"test": " "}}'}),
            ("unittest", {"package.json": '{"scripts": {"test": ["x"]}}'}),
            ("unittest", {"package.json": "[" * 100_000}),
            ("unittest", {"Cargo.toml": "", "setup.py": ""}),
            ("pytest", {"requirements-test.txt": "pytest\n", "tox.ini": "[testenv]\ndeps=pytest>6\n"}),
        ):
            with self.subTest(files=files):
                self.assertEqual(self.inspect(files).runner, runner)

    def test_nothing_declared_needs_no_pip(self):
        for files, pyproject in (
            ({"test_a.py": UNITTEST}, None),
            ({"pyproject.toml": ""}, {"project": {"name": "x", "version": "1"}}),
            ({"pyproject.toml": ""}, {"tool": {"black": {}}}),
        ):
            with self.subTest(files=files):
                self.assertFalse(self.inspect(files, pyproject).needs_pip)

    def test_what_is_installed(self):
        build = {"build-system": {}, "project": {"name": "x"}}
        extras = {"test": ["a"], "dev": ["b"], "docs": ["c"]}
        dev = {"dev": ["b"], "docs": ["c"]}
        for files, pyproject, install, requirements in (
            ({"pyproject.toml": ""}, build, (".",), ()),
            ({"pyproject.toml": ""}, with_project(build, extras), (".[test]",), ()),
            ({"pyproject.toml": ""}, with_project(build, dev), (".[dev]",), ()),
            ({"setup.py": ""}, None, (".[test,tests,testing]",), ()),
            ({"setup.py": "", "setup.cfg": "[options.extras_require]\nTesting = a\n"}, None,
             (".[testing]",), ()),
            ({"pyproject.toml": ""}, dict(build, **{"dependency-groups": {"tests": [], "lint": []}}),
             (".",), ("--group", "tests")),
            ({"pyproject.toml": ""}, {"project": {"dependencies": ["a>1"], "optional-dependencies": extras}},
             (), ("a>1", "a")),
            ({"requirements.txt": "", "requirements/test.txt": ""}, None, (),
             ("-r", "requirements.txt", "-r", "requirements/test.txt")),
            ({"setup.py": "", "requirements.txt": "", "requirements-dev.txt": ""}, None,
             (".[test,tests,testing]",), ("-r", "requirements-dev.txt")),
            ({"tox.ini": "[testenv]\ndeps =\n  pytest\n  py39: x\n  {[a]b}\n  -rmore.txt\n", "more.txt": ""},
             None, (), ("pytest", "-r", "more.txt")),
        ):
            with self.subTest(files=files, pyproject=pyproject):
                project = self.inspect(files, pyproject)
                self.assertEqual((project.install, project.requirements), (install, requirements))

    def test_nothing_becomes_an_option_of_pip(self):
        pyproject = {
            "project": {"dependencies": ["--index-url=http://x", "-e .", "ok", "a\nb", 5]},
            "dependency-groups": {"test": [], "--x": []},
        }
        project = self.inspect(
            {"pyproject.toml": "", "tox.ini": "[testenv]\ndeps = --pre\n  -r../../x\n"}, pyproject
        )
        self.assertEqual(project.requirements, ("ok", "--group", "test"))

    def test_files_of_the_wrong_shape_are_passed_over(self):
        for pyproject in ({"project": 5}, {"project": {"dependencies": "a"}}, {"tool": []},
                          {"dependency-groups": [1]}, {"project": {"optional-dependencies": [1]}}):
            with self.subTest(pyproject=pyproject):
                self.assertEqual(self.inspect({"pyproject.toml": ""}, pyproject).requirements, ())
        self.assertEqual(self.inspect({"tox.ini": "no ini", "setup.cfg": "[a\n"}).install, ())


def with_project(build, extras):
    return dict(build, project={"name": "x", "optional-dependencies": extras})
