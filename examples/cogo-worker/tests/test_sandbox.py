"""The sandbox: what a command can do, what it cannot, and what ends it."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from .support import PROGRAM, Worker, WorkerCase, later

SECOND = 1000


class Isolated(WorkerCase):
    def ran(self, answer):
        self.assertEqual(answer.status, 200, answer.content)
        return answer.json

    def python(self, code, **fields):
        return self.ran(self.worker.sandbox(code=code, language="python", **fields))

    def test_the_report(self):
        body = self.ran(self.worker.sandbox("echo out; echo err >&2; exit 3"))
        self.assertEqual(
            {name: body[name] for name in ("exit_code", "stdout", "stderr", "truncated", "limit")},
            {"exit_code": 3, "stdout": "out\n", "stderr": "err\n", "truncated": False, "limit": None},
        )
        self.assertEqual(body["isolation"], "namespaces")
        self.assertGreaterEqual(body["duration_ms"], 0)
        path = body["report_url"].rsplit("/", 1)[0] + "/"
        self.assertEqual(self.worker.fetch(path + "stdout.txt").content, b"out\n")
        self.assertEqual(self.worker.fetch(path + "stderr.txt").content, b"err\n")

    def test_lists_and_languages(self):
        self.assertEqual(self.ran(self.worker.sandbox(["printf", "%s|", "a b", "$HOME"]))["stdout"], "a b|$HOME|")
        code = {"python": "print(6 * 7)", "sh": "echo $((6 * 7))"}
        if shutil.which("node"):
            code["javascript"] = "console.log(6 * 7)"
        for language, text in code.items():
            with self.subTest(language=language):
                body = self.ran(self.worker.sandbox(code=text, language=language))
                self.assertEqual((body["exit_code"], body["stdout"]), (0, "42\n"), body)

    def test_how_a_command_ends(self):
        for command, code in (("kill -SEGV $$", -11), ("kill -9 $$", -9), (["no-such-program"], 127),
                              (["/usr"], 126), ("exit 255", 255)):
            with self.subTest(command=command):
                self.assertEqual(self.ran(self.worker.sandbox(command))["exit_code"], code)

    def test_there_is_no_network(self):
        body = self.python(
            "import socket\n"
            f"for address in (('127.0.0.1', {self.worker.port}), ('192.0.2.1', 80)):\n"
            "  try: socket.create_connection(address, 5); print('connected')\n"
            "  except OSError as error: print(type(error).__name__)\n"
        )
        self.assertEqual(body["stdout"], "ConnectionRefusedError\nOSError\n", body)

    def test_nothing_of_the_system_is_seen_or_changed(self):
        secret = self.base / "secret"
        secret.write_text("hunter2")
        body = self.python(
            "import os\n"
            f"print(os.path.exists({str(secret)!r}), os.path.exists({str(PROGRAM)!r}))\n"
            "print(sorted(os.environ))\n"
            "print(sorted(p for p in os.listdir('/proc') if p.isdigit())[0], os.getuid() != 0)\n"
            "for path in ('/x', '/usr/x', '/etc/x', '/dev/x', '/proc/sys/kernel/hostname'):\n"
            "  try: open(path, 'w'); print('wrote', path)\n"
            "  except OSError: pass\n"
            "for call in (lambda: os.mkdir('/scratch/m') or os.chroot('/scratch/m'), lambda: os.setuid(0),\n"
            "             lambda: os.kill(1, 9) or print('pid 1 is', os.path.exists('/proc/1'))):\n"
            "  try: call()\n"
            "  except OSError as error: print(error.strerror)\n"
        )
        seen = body["stdout"].splitlines()
        self.assertEqual(seen[0], "False False", body)
        self.assertNotIn("COGO", seen[1])
        self.assertEqual(seen[2], "1 True")
        self.assertFalse([line for line in seen if line.startswith("wrote")])
        self.assertIn("Operation not permitted", seen[3])

    def test_no_new_namespaces_and_no_privileges(self):
        body = self.python(
            "import ctypes, os\n"
            "libc = ctypes.CDLL(None, use_errno=True)\n"
            "for flags in (0x10000000, 0x20000, 0x40000000): print(libc.unshare(flags))\n"
            "print(libc.mount(b'x', b'/scratch', b'tmpfs', 0, None))\n"
            "print([l.split()[1] for l in open('/proc/self/status') if l.startswith(('CapEff', 'CapBnd', 'NoNewPrivs'))])\n"
        )
        self.assertEqual(body["stdout"], "-1\n-1\n-1\n-1\n['0000000000000000', '0000000000000000', '1']\n", body)

    def test_a_fork_bomb_ends_with_its_time(self):
        bomb = "import os, time\nwhile True:\n  try: os.fork()\n  except OSError: time.sleep(0.01)\n"
        body = self.python(bomb, limits={"wall_ms": 2 * SECOND, "processes": 20})
        self.assertIn(body["limit"], ("wall_ms", "cpu_ms"))
        self.assertLess(body["exit_code"], 0)
        self.assertEqual(self.ran(self.worker.sandbox("echo alive"))["stdout"], "alive\n")

    def test_processes_obeyed_and_violated(self):
        code = ("import os, time\nn = 0\ntry:\n  while n < 30:\n    if os.fork() == 0: time.sleep(60)\n    n += 1\n"
                "except OSError as error: print(error.strerror, n < 14)\nelse: print(n)\n")
        self.assertEqual(self.python(code, limits={"processes": 40})["stdout"], "30\n")
        body = self.python(code, limits={"processes": 10})
        self.assertEqual(body["stdout"], "Resource temporarily unavailable True\n", body)

    def test_what_is_left_running_is_killed(self):
        code = ("import os, sys, time\nif os.fork() == 0:\n  os.setsid()\n  os.fork()\n  time.sleep(600)\n"
                "print('done')\n")
        self.assertEqual(self.python(code)["stdout"], "done\n")
        left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        self.assertNotIn("-B main.py", left)

    def test_a_full_disk(self):
        code = ("try:\n  with open('big', 'wb') as f:\n    for _ in range(20): f.write(bytes(1 << 20))\n"
                "except OSError as error: print(error.strerror)\nelse: print('written')\n")
        self.assertEqual(self.python(code, limits={"disk_mb": 32})["stdout"], "written\n")
        self.assertEqual(self.python(code, limits={"disk_mb": 8})["stdout"], "No space left on device\n")
        files = ("n = 0\ntry:\n  while True: open(f'tmp/{n}', 'w').close(); n += 1\n"
                 "except OSError as error: print(error.strerror)\n")
        self.assertEqual(self.python(files, limits={"disk_mb": 1})["stdout"], "No space left on device\n")

    def test_memory_of_one_process(self):
        code = "try: len(bytearray(200 << 20)); print('had it')\nexcept MemoryError: print('MemoryError')\n"
        self.assertEqual(self.python(code, limits={"memory_mb": 400})["stdout"], "had it\n")
        self.assertEqual(self.python(code, limits={"memory_mb": 100})["stdout"], "MemoryError\n")

    def test_memory_of_many_processes(self):
        code = ("import os, time\nfor _ in range(4):\n  if os.fork() == 0:\n    held = b'x' * (40 << 20)\n"
                "    time.sleep(600)\nos.wait()\n")
        body = self.python(code, limits={"memory_mb": 100})
        self.assertEqual((body["limit"], body["exit_code"]), ("memory_mb", -9), body)
        self.assertIn("over the limit memory_mb of 100", body["stderr"])

    def test_an_endless_loop(self):
        body = self.ran(self.worker.sandbox("while :; do :; done", limits={"cpu_ms": 300}))
        self.assertEqual(body["limit"], "cpu_ms", body)
        self.assertGreaterEqual(body["cpu_ms"], 300)

    def test_a_command_that_never_ends(self):
        body = self.ran(self.worker.sandbox("sleep 600", limits={"wall_ms": 300}))
        self.assertEqual((body["limit"], body["exit_code"]), ("wall_ms", -9), body)
        self.assertIn("over the limit wall_ms of 300", body["stderr"])

    def test_endless_output(self):
        body = self.ran(self.worker.sandbox("yes begin; ", limits={"cpu_ms": 500, "log_bytes": 1000}))
        self.assertEqual((body["truncated"], body["limit"]), (True, "cpu_ms"))
        self.assertTrue(body["stdout"].startswith("begin\n"))
        self.assertIn("bytes left out here", body["stdout"])
        self.assertLess(len(body["stdout"]), 1100)

    def test_output_cut_at_its_limit(self):
        text = "import sys\nsys.stdout.write('a' * 500 + 'b' * 500)\nsys.stderr.write('\\x01' * 70000)\n"
        whole = self.python(text, limits={"log_bytes": 65536})
        self.assertEqual((len(whole["stdout"]), whole["truncated"]), (1000, True))
        self.assertIn("bytes left out here", whole["stderr"])
        exact = self.python("print('x' * 999)", limits={"log_bytes": 1000})
        self.assertEqual((len(exact["stdout"]), exact["truncated"]), (1000, False))

    def test_an_answer_stays_below_what_the_adapter_reads(self):
        code = "import os\nfor fd in (1, 2):\n  for _ in range(80): os.write(fd, b'\\xff' * 4096)\n"
        answer = self.worker.sandbox(code=code, language="python")
        self.assertTrue(self.ran(answer)["truncated"])
        self.assertLess(len(answer.content), 1 << 20)

    def test_a_run_is_joined_and_replayed(self):
        asked = {"limits": {"wall_ms": 30 * SECOND}}
        running = later(lambda: self.worker.sandbox("sleep 1; echo once", "sandbox-key", **asked))
        second = self.worker.sandbox("sleep 1; echo once", "sandbox-key", **asked)
        self.assertEqual(self.ran(running()), self.ran(second))
        hows = {answer.headers["x-cogo-run-how"] for answer in (running(), second)}
        self.assertEqual((len(hows), "started" in hows), (2, True), hows)
        other = self.worker.sandbox("echo twice", "sandbox-key")
        self.assertEqual((other.status, other.code), (422, "idempotency_key_reused"))

    def test_requests_that_are_not_right(self):
        for fields, part in (
            ({}, "neither command and code"),
            ({"command": "a", "code": "b", "language": "sh"}, "both command and code"),
            ({"command": "a", "language": "sh"}, "language is given without code"),
            ({"command": ""}, "command is empty"),
            ({"command": []}, "neither a string nor a list"),
            ({"command": ["a", 5]}, "command[1] must be a string"),
            ({"command": [""]}, "command[0] is empty"),
            ({"command": "a\x00b"}, "zero byte"),
            ({"command": "x" * 100_000}, "over 98304 bytes"),
            ({"code": "x"}, "language is missing"),
            ({"code": 5, "language": "sh"}, "code must be a string"),
            ({"code": "x", "language": "cobol"}, "'cobol' is not known"),
            ({"command": "a", "limits": []}, "limits must be an object"),
            ({"command": "a", "limits": {"cpu": 1}}, "limits: unknown field 'cpu'"),
            ({"command": "a", "limits": {"cpu_ms": 0}}, "limits.cpu_ms must be"),
            ({"command": "a", "limits": {"cpu_ms": True}}, "limits.cpu_ms must be"),
            ({"command": "a", "limits": {"log_bytes": 1 << 20}}, "from 1 to 65536"),
            ({"command": "a", "repo": "x"}, "unknown field 'repo'"),
        ):
            with self.subTest(fields=str(fields)[:60]):
                answer = self.worker.sandbox(**fields)
                self.assertEqual(answer.status, 400, answer.content)
                self.assertIn(part, answer.json["error"]["message"])


def worker_of_another(case, *options):
    """A worker whose user is not root; who may not read this checkout gets a copy."""
    home = Path(tempfile.mkdtemp(prefix="cogo-worker-other-"))
    case.addCleanup(shutil.rmtree, home, ignore_errors=True)
    shutil.copytree(PROGRAM, home / "worker")
    before, python = [], sys.executable
    if os.geteuid() == 0:
        os.chown(home, 65534, 65534)
        before = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
        # This interpreter may lie in a home directory.
        python = "/usr/bin/python3"
    worker = Worker(
        home / "state", "--allow-root", str(home), *options,
        before=before, python=python, program=home / "worker",
    )
    case.addCleanup(worker.stop)
    return worker


class NotIsolated(WorkerCase):
    """Systems without namespaces, and operators who know what they do."""

    def refused(self, *options):
        done = subprocess.run(
            [sys.executable, str(PROGRAM), "--port", "0", "--state-dir", str(self.base / "s"), *options],
            capture_output=True, text=True,
        )
        return done.returncode, done.stderr

    def test_off(self):
        worker = Worker(self.base / "state-off", "--sandbox", "off")
        self.addCleanup(worker.stop)
        answer = worker.sandbox("true")
        self.assertEqual((answer.status, answer.code), (422, "sandbox_off"))

    def test_where_the_system_cannot_isolate_nothing_runs(self):
        # A user namespace in which there can be no other.
        worker = Worker(
            self.base / "state-cannot", before=["unshare", "--user", "--map-root-user", "sh", "-c",
                                                'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"', "-"],
        )
        self.addCleanup(worker.stop)
        marker = self.root / "marker"
        for _ in range(2):
            answer = worker.sandbox(f"touch {marker}", "cannot")
            self.assertEqual((answer.status, answer.code), (422, "isolation_unavailable"), answer.content)
            self.assertIn("namespaces", answer.json["error"]["message"])
            self.assertIn("--sandbox limits-only", answer.json["error"]["hint"])
        self.assertFalse(marker.exists())

    def test_limits_only_is_nothing_for_root_and_says_what_it_is_for_others(self):
        if os.geteuid() == 0:
            status, message = self.refused("--sandbox", "limits-only")
            self.assertEqual((status, "root" in message), (2, True), message)
        worker = worker_of_another(self, "--sandbox", "limits-only")
        body = worker.sandbox("echo weak; exit 4").json
        self.assertEqual((body["stdout"], body["exit_code"], body["isolation"]), ("weak\n", 4, "none"), body)
        full = worker.sandbox("while :; do head -c 1000000 /dev/zero >> tmp/$((n += 1)); done",
                              limits={"disk_mb": 5, "wall_ms": 20 * SECOND}).json
        self.assertEqual(full["limit"], "disk_mb", full)
        slow = worker.sandbox("sleep 600 & sleep 600", limits={"wall_ms": 300}).json
        self.assertEqual((slow["limit"], slow["exit_code"]), ("wall_ms", -9), slow)


class AnotherUser(WorkerCase):
    """A worker that is not root isolates as well."""

    def test_isolation_without_privileges(self):
        worker = worker_of_another(self)
        answer = worker.sandbox(f"id -u; ls {self.state_dir} 2>&1; touch /usr/x /scratch/y; ls /scratch")
        self.assertEqual(answer.status, 200, answer.content)
        lines = answer.json["stdout"].splitlines()
        self.assertEqual((lines[0], lines[-2:]), ("65534", ["tmp", "y"]), answer.json)
        self.assertIn("No such file", lines[1])
        bomb = worker.sandbox("bomb() { bomb | bomb & }; bomb; sleep 600", limits={"wall_ms": 1500, "processes": 20})
        self.assertIn(bomb.json["limit"], ("wall_ms", "cpu_ms"), bomb.content)
        self.assertEqual(worker.sandbox("echo alive").json["stdout"], "alive\n")
