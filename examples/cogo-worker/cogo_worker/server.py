"""HTTP: one request in, one JSON answer out.

    POST /run/build-test      runs a project's tests
    POST /run/codegen         writes edits from a specification
    POST /run/sandbox         runs a command or a piece of code in isolation
    GET  /healthz             is the worker up, and how busy
    GET  /reports/RUN/FILE    report.json, edits.json, log.txt, … of a finished run

Runs code on request, so it answers programs only: a request that a browser
sends for a page (it carries ``Origin``) is refused, whatever page that is.
"""

from __future__ import annotations

import hmac
import json
import re
import shutil
import socket
import socketserver
import threading
import time
import traceback
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any, Callable, Dict, Mapping, Optional, Tuple
from urllib.parse import urlsplit

from . import __version__
from .errors import Problem, Refused
from .log import say
from .report import CONTENT_TYPES
from .request import invalid, parse_json, parse_key
from .runs import Answer, Execute, Request, Runs, report_file
from .settings import Settings

IDLE_S = 30.0
BODY_S = 60.0
CONNECTIONS = 128
# A client that is refused is still sending; reading some of it lets it see why.
DISCARD_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True)
class Operation:
    """What is behind a path: how its body is read and how it is carried out."""

    parse: Callable[[Any, Settings], Request]
    execute: Execute


class Server(socketserver.ThreadingTCPServer):
    """The listening socket, and what its handlers share."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(
        self, settings: Settings, runs: Runs, operations: Mapping[str, Operation]
    ) -> None:
        self.settings = settings
        self.runs = runs
        self.operations = operations
        self._places = threading.BoundedSemaphore(CONNECTIONS)
        self._active = 0
        self._idle = threading.Condition()
        found = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        self.address_family = found[0][0]
        super().__init__(found[0][4], Handler)

    @property
    def port(self) -> int:
        """The port it listens on, also where the settings left the choice open."""
        return int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that goes away is no fault; anything else is told by the handler itself.
        return

    def entered(self) -> None:
        """A handler has begun to work on a request."""
        with self._idle:
            self._active += 1

    def left(self) -> None:
        """A handler has written its answer."""
        with self._idle:
            self._active -= 1
            self._idle.notify_all()

    def wait_idle(self, timeout_s: float) -> None:
        """Waits until no request is being answered."""
        with self._idle:
            self._idle.wait_for(lambda: self._active == 0, timeout_s)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    server_version = f"cogo-worker/{__version__}"
    sys_version = ""
    protocol_version = "HTTP/1.1"
    timeout = IDLE_S
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._serve(self._get)

    def do_HEAD(self) -> None:
        self._serve(self._get)

    def do_POST(self) -> None:
        self._serve(self._post)

    def _serve(self, handle: Callable[[], None]) -> None:
        self.server.entered()
        try:
            handle()
        except Problem as problem:
            self._refuse(problem)
        except (ConnectionError, TimeoutError, socket.timeout):
            self.close_connection = True
        except Exception:
            traceback.print_exc()
            self.close_connection = True
            self._refuse(Problem(500, "internal", "the worker failed; its log says how"))
        finally:
            self.server.left()

    def _get(self) -> None:
        path = urlsplit(self.path).path
        if path == "/healthz":
            limits = self.server.settings.limits
            running = self.server.runs.in_progress()
            body = {"status": "ok", "version": __version__, "running": running}
            self._json(200, dict(body, max_runs=limits.max_runs))
            return
        match = re.fullmatch(r"/reports/([a-z0-9_]{1,64})/([a-z.]{1,32})", path)
        file = report_file(self.server.settings.runs_dir, *match.groups()) if match else None
        if file is None:
            raise Refused("not_found", "there is nothing at this path", status=404)
        with open(file, "rb") as content:
            size = file.stat().st_size
            self._head(200, CONTENT_TYPES[file.name], size)
            if self.command != "HEAD":
                shutil.copyfileobj(content, self.wfile)

    def _post(self) -> None:
        path = urlsplit(self.path).path
        known = self.server.operations
        try:
            if path not in known:
                raise Refused("not_found", f"no such operation; known: {', '.join(known)}", status=404)
            self._check_caller()
            length = self._content_length()
        except Problem:
            self._discard()
            raise
        self._run(path, known[path], self._body(length))

    def _run(self, path: str, operation: Operation, body: bytes) -> None:
        key = parse_key(self.headers.get("idempotency-key"))
        request = operation.parse(parse_json(body), self.server.settings)
        handled = self.server.runs.handle(key, request, operation.execute)
        say(
            path.rpartition("/")[2],
            run=handled.run_id,
            how=handled.how,
            task_id=request.task_id,
            trace_id=request.trace_id,
            traceparent=(self.headers.get("traceparent") or "-")[:64],
        )
        self._answer(handled.run_id, handled.how, handled.wait())

    def _answer(self, run_id: str, how: str, answer: Answer) -> None:
        body = dict(answer.body)
        for field, file in answer.links.items():
            # Made now, as a later worker may be reached at another address.
            body[field] = f"{self._base_url()}/reports/{run_id}/{file}"
        headers = {"x-cogo-run": run_id, "x-cogo-run-how": how}
        if answer.retry_after_s is not None:
            headers["Retry-After"] = str(answer.retry_after_s)
        self._json(answer.status, body, headers)

    def _check_caller(self) -> None:
        """Programs with the right token, and no web pages."""
        if self.headers.get("Origin") is not None:
            raise Refused("browser_refused", "requests from web pages are refused", status=403)
        token = self.server.settings.token
        if token is not None:
            given = (self.headers.get("Authorization") or "").encode("latin-1", "replace")
            if not hmac.compare_digest(given, f"Bearer {token}".encode("utf-8")):
                raise Refused(
                    "unauthorized", "the token is missing or wrong",
                    "Authorization: Bearer TOKEN", status=401,
                )
        kind = (self.headers.get("Content-Type") or "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Refused(
                "unsupported_media_type", "the body must be JSON",
                "Content-Type: application/json", status=415,
            )

    def _content_length(self) -> int:
        values = self.headers.get_all("Content-Length") or []
        if self.headers.get("Transfer-Encoding") is not None or not values:
            raise Refused("length_required", "send the body with a Content-Length", status=411)
        if len(values) != 1 or not re.fullmatch(r"[0-9]{1,18}", values[0].strip()):
            raise invalid("Content-Length is not a number")
        length = int(values[0])
        limit = self.server.settings.limits.body_bytes
        if length > limit:
            raise Refused("body_too_large", f"the body is over {limit} bytes", status=413)
        return length

    def _body(self, length: int) -> bytes:
        pieces = []
        deadline = time.monotonic() + BODY_S
        while length > 0:
            self.connection.settimeout(max(0.01, deadline - time.monotonic()))
            piece = self.rfile.read1(length)
            if not piece:
                raise ConnectionError("the body was cut short")
            pieces.append(piece)
            length -= len(piece)
        self.connection.settimeout(IDLE_S)
        return b"".join(pieces)

    def _discard(self) -> None:
        """Reads what a refused client still sends, within reason; then the connection ends."""
        self.close_connection = True
        if (self.headers.get("Expect") or "").lower() == "100-continue":
            return
        declared = self.headers.get("Content-Length") or ""
        left = min(int(declared) if re.fullmatch(r"[0-9]{1,18}", declared) else 0, DISCARD_BYTES)
        deadline = time.monotonic() + IDLE_S
        while left > 0 and time.monotonic() < deadline:
            piece = self.rfile.read1(min(left, 65536))
            if not piece:
                return
            left -= len(piece)

    def handle_expect_100(self) -> bool:
        """Asks for the body only where it will be read."""
        try:
            self._check_caller()
            self._content_length()
        except Problem as problem:
            self.close_connection = True
            self._refuse(problem)
            return False
        return super().handle_expect_100()

    def _base_url(self) -> str:
        settings = self.server.settings
        if settings.public_url:
            return settings.public_url
        # Of this connection: where the caller reached the worker, by address.
        host = self.connection.getsockname()[0]
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server.port}"

    def _refuse(self, problem: Problem) -> None:
        say("refused", path=self.path[:200], status=problem.status, code=problem.code)
        headers = {}
        if problem.retry_after_s is not None:
            headers["Retry-After"] = str(problem.retry_after_s)
        if problem.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        self._json(problem.status, problem.body(), headers)

    def _json(self, status: int, body: Dict[str, Any], headers: Optional[Dict[str, str]] = None) -> None:
        content = json.dumps(body).encode("utf-8") + b"\n"
        self._head(status, "application/json", len(content), headers)
        if self.command != "HEAD":
            self.wfile.write(content)

    def _head(
        self, status: int, kind: str, length: int, headers: Optional[Dict[str, str]] = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        self.send_header("Cache-Control", "no-store")
        # What a project's tests wrote is shown, never run.
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Security-Policy", "sandbox; default-src 'none'")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def send_error(
        self, code: int, message: Optional[str] = None, explain: Optional[str] = None
    ) -> None:
        """What the base class refuses (a bad request line, an unknown method), as JSON."""
        self.close_connection = True
        self.command = getattr(self, "command", None) or "GET"
        self.requestline = getattr(self, "requestline", "")
        self.path = getattr(self, "path", "")
        # Before HTTP/1.0 an answer has no head; this worker does not speak that.
        self.request_version = "HTTP/1.1"
        status = 405 if code == 501 else int(code)
        self._refuse(Problem(status, "bad_request", message or "the request cannot be read"))

    def log_message(self, format: str, *args: Any) -> None:
        # Requests are logged with their run; see ``say``.
        return


def base_url(address: Tuple[str, int]) -> str:
    """The URL of a bound address, for the line that says where the worker listens."""
    host, port = address
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
