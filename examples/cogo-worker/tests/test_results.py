"""Reading what a test process wrote, which may be anything."""

import json
import tempfile
import unittest
from pathlib import Path

from cogo_worker.results import count, read_events, read_junit

CASE = '<testcase classname="{}" name="{}" time="0.5">{}</testcase>'


class Files(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.path = Path(directory.name, "file")

    def junit(self, *cases):
        self.path.write_text("<testsuites><testsuite>" + "".join(cases) + "</testsuite></testsuites>")
        return read_junit(self.path)

    def test_junit_outcomes(self):
        results = self.junit(
            CASE.format("a", "passes", ""),
            CASE.format("a", "fails", '<failure message="m">text</failure>'),
            CASE.format("", "b", "<error/>"),
            CASE.format("a", "skipped", '<skipped type="pytest.skip" message="why"/>'),
            CASE.format("a", "xfails", '<skipped type="pytest.xfail"/>'),
        )
        self.assertEqual(
            [(r.id, r.outcome, r.message) for r in results],
            [("a::passes", "passed", ""), ("a::fails", "failed", "text"), ("b", "error", ""),
             ("a::skipped", "skipped", "why"), ("a::xfails", "expected_failure", "")],
        )
        counts = count(results)
        self.assertEqual((counts.tests, counts.failures, counts.errors, counts.skipped), (5, 2, 1, 1))

    def test_a_test_that_failed_twice_counts_once(self):
        failed = CASE.format("a", "b", "<failure/>")
        self.assertEqual(len(self.junit(failed, CASE.format("a", "b", "<error/>"))), 1)
        self.assertEqual(len(self.junit(CASE.format("a", "b", ""), CASE.format("a", "b", ""))), 2)

    def test_no_junit_file(self):
        self.assertIsNone(read_junit(self.path))
        for content in ("", "<a", '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "\x00"):
            with self.subTest(content=content):
                self.path.write_text(content)
                self.assertIsNone(read_junit(self.path))

    def test_a_link_is_not_followed(self):
        real = self.path.with_name("real")
        real.write_text("<testsuites>" + CASE.format("a", "b", "") + "</testsuites>")
        self.path.symlink_to(real)
        self.assertIsNone(read_junit(self.path))

    def events(self, *lines):
        self.path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
        return read_events(self.path)

    def test_events(self):
        log = self.events(
            {"event": "start", "id": "a"},
            {"event": "result", "id": "a", "outcome": "passed", "ms": 5},
            "not json", "5", {"event": "result", "id": "z", "outcome": "great"},
            {"event": "result", "id": "n", "outcome": "passed", "ms": "x"},
            {"event": "start", "id": "b"},
        )
        self.assertEqual([result.id for result in log.results], ["a", "n"])
        self.assertEqual((log.unfinished, log.ended), ("b", False))

    def test_a_tear_down_that_fails_takes_the_place_of_the_pass(self):
        log = self.events(
            {"event": "start", "id": "a"},
            {"event": "result", "id": "a", "outcome": "passed", "ms": 5},
            {"event": "result", "id": "a", "outcome": "error", "ms": 5},
            {"event": "end"},
        )
        self.assertEqual([result.outcome for result in log.results], ["error"])
        self.assertTrue(log.ended)

    def test_texts_can_be_written_as_xml_again(self):
        log = self.events({"event": "result", "id": "a\n\x1b", "outcome": "failed", "message": "\x00\ud800ok\n"})
        self.assertEqual((log.results[0].id, log.results[0].message), ("a??", "??ok\n"))
