"""The protocol: what the worker makes of requests nobody should send."""

import json
import socket

from .support import PASSING, PATIENCE_S, WorkerCase

GOOD = {"task_id": "t", "repo": "p", "trace_id": "x"}


class Bodies(WorkerCase):
    def test_fields_that_are_not_right(self):
        for change, part in (
            ({"repo": None}, "repo is missing"),
            ({"repo": ""}, "repo is empty"),
            ({"repo": 5}, "repo must be a string"),
            ({"repo": "x" * 3000}, "longer than"),
            ({"repo": "a\x00b"}, "control"),
            ({"repo": "a\u202eb"}, "control"),
            ({"task_id": None}, "task_id is missing"),
            ({"task_id": ["t"]}, "task_id must be"),
            ({"trace_id": "x" * 257}, "trace_id is longer"),
            ({"ref": 7}, "ref must be"),
            ({"edits_url": "ftp://example.org/x"}, "http or https"),
            ({"command": "rm"}, "unknown field"),
        ):
            with self.subTest(change=change):
                answer = self.worker.post(dict(GOOD, **change))
                self.assertEqual(answer.status, 400, answer.content)
                self.assertIn(part, answer.json["error"]["message"])

    def test_bodies_that_are_no_json_object(self):
        for body in (b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"repo": NaN}', b"[" * 200_000,
                     b'{"repo": "a", "repo": "b"}', b'{"task_id": "\\ud800", "repo": "a", "trace_id": "x"}'):
            with self.subTest(body=body[:40]):
                self.assertEqual(self.worker.post(body).status, 400)

    def test_a_body_over_the_limit(self):
        at_limit = json.dumps(GOOD).encode().ljust(1 << 20)
        self.assertNotEqual(self.worker.post(at_limit).status, 413)
        answer = self.worker.post(at_limit + b" ")
        self.assertEqual((answer.status, answer.code), (413, "body_too_large"))

    def test_content_types_and_web_pages(self):
        body = json.dumps(GOOD).encode()
        plain = self.worker.request("POST", "/run/build-test", body, {"Content-Type": "text/plain"})
        self.assertEqual(plain.status, 415)
        page = self.worker.post(GOOD, Origin="http://127.0.0.1:1")
        self.assertEqual((page.status, page.code), (403, "browser_refused"))

    def raw(self, text):
        """Sends bytes as they are and returns the status line."""
        with socket.create_connection(("127.0.0.1", self.worker.port), PATIENCE_S) as connection:
            connection.sendall(text)
            connection.shutdown(socket.SHUT_WR)
            return connection.makefile("rb").read().split(b"\r\n", 1)[0].decode()

    def test_heads_that_are_not_right(self):
        start = b"POST /run/build-test HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        for head, status in (
            (start + b"\r\n", 411),
            (start + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
            (start + b"Content-Length: -1\r\n\r\n", 400),
            (start + b"Content-Length: 1_0\r\n\r\n", 400),
            (start + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef", 400),
            (start + b"Content-Length: 99999999\r\nExpect: 100-continue\r\n\r\n", 413),
            (b"BREW /run/build-test HTTP/1.1\r\nHost: x\r\n\r\n", 405),
            (b"nonsense\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
        ):
            with self.subTest(head=head[:120]):
                self.assertEqual(self.raw(head).split(" ")[1:2], [str(status)])

    def test_a_body_that_is_cut_short_harms_nobody(self):
        start = b"POST /run/build-test HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        self.assertEqual(self.raw(start + b"Content-Length: 50\r\n\r\n{"), "")
        self.assertEqual(self.worker.request("GET", "/healthz").status, 200)


class Routes(WorkerCase):
    def test_health(self):
        answer = self.worker.request("GET", "/healthz")
        self.assertEqual((answer.status, answer.json["status"], answer.json["running"]), (200, "ok", 0))

    def test_unknown_paths(self):
        self.assertEqual(self.worker.post(GOOD, path="/run/other").status, 404)
        self.assertEqual(self.worker.request("GET", "/").status, 404)
        self.assertEqual(self.worker.request("GET", "/run/build-test").status, 404)

    def test_reports_and_nothing_else_are_served(self):
        answer = self.worker.build_test(self.project({"test_a.py": PASSING}))
        run = answer.json["report_url"].rsplit("/", 2)[1]
        for name, kind in (("report.json", "application/json"), ("junit.xml", "text/xml"),
                           ("log.txt", "text/plain")):
            with self.subTest(name=name):
                found = self.worker.request("GET", f"/reports/{run}/{name}")
                self.assertEqual(found.status, 200)
                self.assertTrue(found.headers["Content-Type"].startswith(kind))
                self.assertEqual(found.headers["X-Content-Type-Options"], "nosniff")
                self.assertIn("sandbox", found.headers["Content-Security-Policy"])
                head = self.worker.request("HEAD", f"/reports/{run}/{name}")
                self.assertEqual((head.status, head.content), (200, b""))
        for path in ("/reports", "/reports/", f"/reports/{run}", f"/reports/{run}/",
                     f"/reports/{run}/record.json", f"/reports/{run}/../{run}/record.json",
                     f"/reports/{run}/..%2f..%2flock", "/reports/../lock", "/reports/..%2flock/report.json",
                     "/reports/run_" + "0" * 32 + "/report.json"):
            with self.subTest(path=path):
                self.assertEqual(self.worker.request("GET", path).status, 404)
