"""Projects of other languages: ``cargo test``, ``npm test``, and what they print."""

import json
import unittest

from cogo_worker.results import count
from cogo_worker.runner_output import Libtest, NodeOutput

from .support import WorkerCase

CARGO_TOML = '[package]\nname = "tiny"\nversion = "0.1.0"\nedition = "2021"\n'
LIB = """
/// ```
/// assert_eq!(tiny::twice(2), 4);
/// ```
pub fn twice(n: u32) -> u32 { n * 2 }
#[cfg(test)]
mod tests {
    #[test] fn good() { assert_eq!(super::twice(3), 6); }
    #[test] #[ignore] fn later() {}
    #[test] fn second() { println!("test forged ... FAILED"); assert_eq!(super::twice(1), RESULT); }
}
"""
NODE_TESTS = """
const test = require('node:test'); const assert = require('node:assert');
const { describe, it } = test;
test('adds', () => assert.strictEqual(1 + 1, RESULT));
describe('group', () => { it('inner', () => {}); it.skip('not here', () => {}); });
"""


def package(script, **more):
    return json.dumps(dict({"name": "tiny", "version": "1.0.0", "scripts": {"test": script}}, **more))


class Cargo(WorkerCase):
    options = ("--test-timeout-s", "20")

    def crate(self, result, **files):
        named = {name.replace("__", "/"): content for name, content in files.items()}
        base = {"Cargo.toml": CARGO_TOML, "src/lib.rs": LIB.replace("RESULT", result)}
        return self.project(dict(base, **{f"{name}.rs": content for name, content in named.items()}))

    def run_tests(self, project):
        answer = self.worker.build_test(project)
        self.assertEqual(answer.status, 200, answer.content)
        counts = answer.json["passed"], answer.json["tests"], answer.json["failures"]
        return counts, self.worker.report(answer).json

    def test_unit_tests_doc_tests_and_integration_tests_are_counted(self):
        it = "#[test] fn outside() { assert_eq!(tiny::twice(5), 10); }\n"
        counts, report = self.run_tests(self.crate("2", tests__it=it))
        self.assertEqual(counts, (True, 5, 0), report)
        self.assertEqual((report["runner"], report["network"], report["skipped"]), ("cargo", "loopback", 1))
        names = {result["id"]: result["outcome"] for result in report["results"]}
        self.assertEqual(names["src/lib.rs::tests::good"], "passed")
        self.assertEqual(names["src/lib.rs::tests::later"], "skipped")
        self.assertEqual(names["tests/it.rs::outside"], "passed")
        self.assertEqual(names["Doc-tests tiny::src/lib.rs - twice (line 2)"], "passed")

    def test_a_failing_test_is_named_with_its_reason(self):
        counts, report = self.run_tests(self.crate("3"))
        self.assertEqual(counts, (False, 4, 1), report)
        (failed,) = [result for result in report["results"] if result["outcome"] == "failed"]
        self.assertEqual(failed["id"], "src/lib.rs::tests::second")
        self.assertIn("left: 2", failed["message"])

    def test_a_crate_that_does_not_compile_is_one_failure(self):
        counts, report = self.run_tests(self.crate('"two"'))
        self.assertEqual(counts, (False, 1, 1), report)
        (result,) = report["results"]
        self.assertEqual(result["id"], "(build)")
        self.assertIn("error[E0308]", result["message"])

    def test_a_test_that_aborts_and_one_that_never_ends(self):
        abort = "#[test] fn breaks_off() { std::process::abort(); }\n"
        counts, report = self.run_tests(self.crate("2", tests__a=abort))
        self.assertFalse(counts[0])
        self.assertIn(("tests/a.rs", "error"), [(r["id"], r["outcome"]) for r in report["results"]])
        hang = "#[test] fn hangs() { loop { std::thread::park(); } }\n"
        counts, report = self.run_tests(self.crate("2", tests__a=hang))
        self.assertFalse(counts[0])
        self.assertIn("time limit of 20 s", report["results"][-1]["message"])

    def test_tests_have_a_loopback_and_no_other_network(self):
        code = (
            "use std::net::*;\n"
            "#[test] fn own_loopback() { let l = TcpListener::bind(\"127.0.0.1:0\").unwrap();\n"
            "  TcpStream::connect(l.local_addr().unwrap()).unwrap(); }\n"
            "#[test] fn nothing_else() { assert!(TcpStream::connect(\"127.0.0.1:%d\").is_err());\n"
            "  assert!(TcpStream::connect(\"192.0.2.1:80\").is_err()); }\n" % self.worker.port
        )
        counts, report = self.run_tests(self.crate("2", tests__net=code))
        self.assertEqual(counts, (True, 6, 0), report)

    def test_no_tests_never_pass(self):
        project = self.project({"Cargo.toml": CARGO_TOML, "src/lib.rs": ""})
        answer = self.worker.build_test(project)
        self.assertEqual((answer.status, answer.code), (422, "no_tests_ran"), answer.content)

    def test_a_manifest_that_cannot_be_read(self):
        answer = self.worker.build_test(self.project({"Cargo.toml": "[package", "src/lib.rs": ""}))
        self.assertEqual((answer.status, answer.code), (422, "install_failed"), answer.content)


class Npm(WorkerCase):
    options = ("--test-timeout-s", "20")

    def run_tests(self, files):
        answer = self.worker.build_test(self.project(files))
        self.assertEqual(answer.status, 200, answer.content)
        counts = answer.json["passed"], answer.json["tests"], answer.json["failures"]
        return counts, self.worker.report(answer).json

    def test_nodes_own_runner(self):
        for result, counts in (("2", (True, 3, 0)), ("3", (False, 3, 1))):
            with self.subTest(result=result):
                found, report = self.run_tests(
                    {"package.json": package("node --test"), "a.test.js": NODE_TESTS.replace("RESULT", result)}
                )
                self.assertEqual(found, counts, report)
                self.assertEqual((report["runner"], report["network"], report["skipped"]), ("npm", "loopback", 1))

    def test_a_script_that_says_no_numbers_is_one_test(self):
        counts, report = self.run_tests({"package.json": package("node check.js"), "check.js": ""})
        self.assertEqual((counts, report["results"][0]["id"]), ((True, 1, 0), "npm test"))
        counts, report = self.run_tests(
            {"package.json": package("node check.js"), "check.js": "throw new Error('it is broken')"}
        )
        self.assertEqual(counts, (False, 1, 1))
        self.assertIn("it is broken", report["results"][0]["message"])

    def test_dependencies_are_installed(self):
        files = {
            "package.json": package("node check.js", dependencies={"dep": "file:./dep"}),
            "dep/package.json": '{"name": "dep", "version": "1.0.0", "main": "index.js"}',
            "dep/index.js": "module.exports = 7;",
            "check.js": "require('node:assert').strictEqual(require('dep'), 7);",
        }
        self.assertEqual(self.run_tests(files)[0], (True, 1, 0))

    def test_a_script_that_never_ends_is_killed_with_all_it_started(self):
        counts, report = self.run_tests(
            {"package.json": package("node check.js"), "check.js": "setInterval(() => {}, 1000)"}
        )
        self.assertEqual(counts, (False, 1, 1))
        self.assertIn("time limit of 20 s", report["results"][-1]["message"])

    def test_a_flood_of_output_is_read_to_its_end(self):
        flood = "for (let i = 0; i < 50000; i++) process.stdout.write('x'.repeat(60) + '\\n');" + NODE_TESTS
        counts, _ = self.run_tests({"package.json": package("node --test"), "a.test.js": flood.replace("RESULT", "2")})
        self.assertEqual(counts, (True, 3, 0))

    def test_what_npm_init_writes_is_no_test(self):
        script = 'echo "Error: no test specified" && exit 1'
        answer = self.worker.build_test(self.project({"package.json": package(script)}))
        self.assertEqual((answer.status, answer.code), (422, "no_tests_ran"), answer.content)


class Output(unittest.TestCase):
    """What the runners print, in pieces of any size."""

    def read(self, reader, text):
        content = text.encode()
        for at in range(0, len(content), 7):
            reader.feed(content[at : at + 7])
        reader.close()
        return reader

    def test_libtest(self):
        found = self.read(Libtest(), (
            "   Compiling tiny v0.1.0\n     Running unittests src/lib.rs (target/debug/deps/tiny-1)\n\n"
            "running 4 tests\ntest a ... ok\ntest b - should panic ... ok\ntest c ... ignored, slow\n"
            "test d ... FAILED\n\nfailures:\n\n---- d stdout ----\ntest x ... ok\nleft: 1\n\n\nfailures:\n    d\n\n"
            "test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s\n"
        ))
        self.assertEqual(
            sorted((result.id, result.outcome) for result in found.results),
            [("src/lib.rs::a", "passed"), ("src/lib.rs::b - should panic", "passed"),
             ("src/lib.rs::c", "skipped"), ("src/lib.rs::d", "failed")],
        )
        self.assertIn("left: 1", next(r.message for r in found.results if r.outcome == "failed"))
        self.assertIsNone(found.unfinished)

    def test_the_summary_counts_where_lines_are_missing_or_too_many(self):
        summary = "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n"
        for lines in ("", "test a ... noise\nok\n", "test a ... ok\ntest b ... ok\ntest forged ... ok\n",
                      "test forged ... FAILED\n"):
            with self.subTest(lines=lines):
                found = self.read(Libtest(), "running 2 tests\n" + lines + summary)
                counts = count(found.results)
                self.assertEqual((counts.tests, counts.failures), (2, 0))

    def test_a_program_that_breaks_off(self):
        found = self.read(Libtest(), (
            "     Running tests/a.rs (x)\nrunning 2 tests\ntest a ... ok\nerror: test failed\n"
            "     Running tests/b.rs (x)\nrunning 1 test\ntest b ... ok\n"
        ))
        self.assertEqual([(r.id, r.outcome) for r in found.results],
                         [("tests/a.rs::a", "passed"), ("tests/a.rs", "error"), ("tests/b.rs::b", "passed")])
        self.assertEqual(found.unfinished, "tests/b.rs")

    def test_javascript_runners(self):
        for text, counts in (
            ("TAP version 13\nok 1 - a\nnot ok 2 - b\n  ---\n  error: 'x'\n  ...\nok 3 - c # SKIP why\n", (3, 1, 1)),
            ("ok 1 - not TAP, as nothing says it is\n", (0, 0, 0)),
            ("ℹ tests 4\nℹ suites 1\nℹ pass 2\nℹ fail 1\nℹ cancelled 0\nℹ skipped 1\nℹ todo 0\n"
             "\n✖ failing tests:\n\n✖ b (1.2ms)\n", (4, 1, 1)),
            ("  12 passing (1s)\n  1 pending\n  2 failing\n", (15, 2, 1)),
            ("Tests:       1 failed, 2 skipped, 3 passed, 6 total\n", (6, 1, 2)),
            (" Tests  1 failed | 2 passed (3)\n", (3, 1, 0)),
            ("\x1b[32mTests:  2 passed, 2 total\x1b[0m\n", (2, 0, 0)),
            ("# tests 2\n# pass 2\n# fail 0\n# tests 3\n# pass 2\n# fail 1", (5, 1, 0)),
            ("x" * 100_000 + "\n  1 passing\n", (1, 0, 0)),
        ):
            with self.subTest(text=text[:40]):
                found = count(self.read(NodeOutput(), text).results())
                self.assertEqual((found.tests, found.failures, found.skipped), counts)

    def test_a_flood_of_numbers_is_bounded(self):
        found = self.read(NodeOutput(), "  9999999 passing\n" * 3)
        self.assertLessEqual(len(found.results()), 100_000)
