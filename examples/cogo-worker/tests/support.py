"""The real worker as a process, and the things its runs are pointed at.

Tests wait on sockets: a project under test connects to a ``Meeting`` and is
held there until the test lets it go, and a closed connection says that a
process is gone.
"""

import http.client
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import unittest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PROGRAM = Path(__file__).resolve().parent.parent
SAMPLE = PROGRAM.parent / "sample-project"
# Far above what anything here takes; it only keeps a broken build from hanging.
PATIENCE_S = 120

PASSING = """
import unittest
class T(unittest.TestCase):
    def test_one(self): self.assertEqual(1, 1)
    def test_two(self): self.assertEqual(2, 2)
"""

# Meets the test at PORT, says NAME, and does not end before it is let go.
MEET = """
import socket, unittest
def meet(name):
    held = socket.create_connection(("127.0.0.1", {port}))
    held.sendall(name + b"\\n")
    held.recv(1)
    held.close()
"""

HELD = MEET + """
class T(unittest.TestCase):
    def test_held(self): meet(b"held")
"""


class Answer:
    """One HTTP answer."""

    def __init__(self, response):
        self.status = response.status
        self.headers = response.headers
        self.content = response.read()

    @property
    def json(self):
        return json.loads(self.content)

    @property
    def code(self):
        return self.json["error"]["code"]


class Worker:
    """A worker process on a free port; ``before`` is a command that starts it."""

    def __init__(self, state_dir, *options, before=(), python=sys.executable, program=PROGRAM):
        self.process = subprocess.Popen(
            [*before, str(python), str(program), "--port", "0", "--state-dir", str(state_dir), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        line = self.process.stdout.readline()
        assert line.startswith("cogo-worker listening on http://"), line + self.process.stderr.read()
        self.port = int(line.rsplit(":", 1)[1])
        self._log = []
        self._log_grew = threading.Condition()
        # Read as it comes, so that the worker never waits for its reader.
        self._reader = threading.Thread(target=self._read_log)
        self._reader.start()

    def _read_log(self):
        for line in self.process.stderr:
            with self._log_grew:
                self._log.append(line)
                self._log_grew.notify_all()

    def await_log(self, text):
        """Waits until a line of the log holds ``text``."""
        with self._log_grew:
            found = self._log_grew.wait_for(lambda: any(text in line for line in self._log), PATIENCE_S)
        if not found:
            raise AssertionError(f"{text!r} is not in the log:\n" + "".join(self._log))

    def request(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            connection.request(method, path, body, headers or {})
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def post(self, body, key=None, path="/run/build-test", **headers):
        sent = {"Content-Type": "application/json"}
        if key is not None:
            sent["idempotency-key"] = key
        sent.update({name.replace("_", "-"): value for name, value in headers.items()})
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.request("POST", path, content, sent)

    def build_test(self, repo, key=None, **fields):
        return self.post(dict({"task_id": "t-1", "repo": str(repo), "trace_id": "tr-1"}, **fields), key)

    def codegen(self, spec, key=None, **fields):
        return self.post(
            dict({"task_id": "t-1", "spec": spec, "trace_id": "tr-1"}, **fields), key, "/run/codegen"
        )

    def sandbox(self, command=None, key=None, **fields):
        body = dict({"task_id": "t-1", "trace_id": "tr-1"}, **fields)
        if command is not None:
            body["command"] = command
        return self.post(body, key, "/run/sandbox")

    def fetch(self, url):
        """What is at a URL of this worker."""
        return self.request("GET", url.split(f":{self.port}", 1)[1])

    def build_test_later(self, repo, key=None, **fields):
        """The same in a thread; call the result to have the answer."""
        return later(lambda: self.build_test(repo, key, **fields))

    def report(self, answer, name="report.json"):
        path = "/reports/" + answer.json["report_url"].rsplit("/", 2)[1] + "/" + name
        return self.request("GET", path)

    def stop(self, number=signal.SIGTERM):
        """Ends the worker, if it has not ended, and returns its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        self.process.stdout.close()
        self.process.stderr.close()
        return status

def later(work):
    """Starts ``work`` in a thread; the function returned waits for its result."""
    result = []
    thread = threading.Thread(target=lambda: result.append(work()))
    thread.start()

    def get():
        thread.join(PATIENCE_S)
        if not result:
            raise AssertionError("the request has no answer")
        return result[0]

    return get


class Meeting:
    """Where processes of a run announce themselves and are held."""

    def __init__(self):
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.settimeout(PATIENCE_S)
        self.port = self._socket.getsockname()[1]

    def await_one(self):
        """The next process that arrives: its name and its connection."""
        connection, _ = self._socket.accept()
        connection.settimeout(PATIENCE_S)
        return connection.makefile("rb").readline().strip().decode(), connection

    def close(self):
        self._socket.close()


def release(connection):
    connection.sendall(b".")
    connection.close()


def is_gone(connection):
    """Waits until the other side's process is dead and its connection with it."""
    try:
        gone = connection.recv(1) == b""
    except ConnectionResetError:
        gone = True
    connection.close()
    return gone


class Origin:
    """An HTTP server for edits and archives: a path answers what was put there."""

    def __init__(self):
        origin = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                path = self.path.partition("?")[0]
                status, headers, body = origin.answers.get(path, (404, {}, b""))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if "Content-Length" not in headers:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.answers = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = "http://127.0.0.1:%d" % self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def put(self, path, body=b"", status=200, **headers):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers[path] = (status, sent, content)
        return self.url + path

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class GitServer:
    """A repository over git's HTTP protocol, served by git's own CGI program."""

    def __init__(self, repository):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                path, _, query = self.path.partition("?")
                env = dict(
                    os.environ,
                    GIT_PROJECT_ROOT=str(repository / ".git"),
                    GIT_HTTP_EXPORT_ALL="1",
                    GIT_PROTOCOL=self.headers.get("Git-Protocol", ""),
                    PATH_INFO=path,
                    QUERY_STRING=query,
                    REQUEST_METHOD=self.command,
                    CONTENT_TYPE=self.headers.get("Content-Type", ""),
                    HTTP_CONTENT_ENCODING=self.headers.get("Content-Encoding", ""),
                )
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                done = subprocess.run(["git", "http-backend"], env=env, input=body, capture_output=True)
                head, _, content = done.stdout.partition(b"\r\n\r\n")
                fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
                self.send_response(int(fields.pop("Status", "200").split()[0]))
                for name, value in fields.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_GET

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = "http://127.0.0.1:%d" % self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def closed_port():
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class WorkerCase(unittest.TestCase):
    """A temporary directory that the worker may read, and the worker of the class."""

    options = ()

    @classmethod
    def setUpClass(cls):
        cls.base = Path(tempfile.mkdtemp(prefix="cogo-worker-test-")).resolve()
        cls.addClassCleanup(shutil.rmtree, cls.base, ignore_errors=True)
        cls.state_dir = cls.base / "state"
        cls.root = cls.base / "root"
        cls.root.mkdir()
        cls.worker = cls.start_worker()
        cls.addClassCleanup(lambda: cls.worker.stop())
        cls.origin = Origin()
        cls.addClassCleanup(cls.origin.close)

    @classmethod
    def start_worker(cls):
        return Worker(cls.state_dir, "--allow-root", str(cls.root), *cls.options)

    def setUp(self):
        self.meeting = Meeting()
        self.addCleanup(self.meeting.close)

    def project(self, files, name="project"):
        """A fresh directory with these files."""
        directory = Path(tempfile.mkdtemp(prefix=name + "-", dir=self.root))
        for path, content in files.items():
            target = directory / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(content)
        return directory

    def held_project(self):
        return self.project({"test_held.py": HELD.format(port=self.meeting.port)})


def git(directory, *arguments):
    """Runs git as somebody, with no settings of this machine."""
    env = dict(os.environ, GIT_CONFIG_GLOBAL=os.devnull, GIT_CONFIG_NOSYSTEM="1")
    command = ["git", "-c", "user.name=n", "-c", "user.email=n@example.org", *arguments]
    done = subprocess.run(command, cwd=directory, env=env, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def tar_of(entries, mode="w:gz"):
    """An archive of (name, content or TarInfo changes) pairs."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            if isinstance(content, dict):
                for field, value in content.items():
                    setattr(info, field, value)
                archive.addfile(info)
            else:
                data = content.encode()
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()
