"""Runs one command with limits and leaves nothing of it behind.

    python -I -S supervise.py SPEC        SPEC: JSON, see ``main``

A program of its own, so that the limits are set in a process with one thread
and the worker may die at any moment: standard input is the lifeline, and when
its other end closes, everything that was started is killed. Processes that
leave the process group are still found, since orphans are handed to this one
(Linux); elsewhere the process group is what is killed.

Writes one JSON object to the status descriptor when all is over.
"""

import json
import os
import resource
import select
import signal
import subprocess
import sys
import time

PR_SET_CHILD_SUBREAPER = 36
# A Python process prints its stack on SIGABRT; this is the time it gets for it.
ABORT_GRACE_S = 2.0
# Killing is repeated, as a process may fork while it is being killed.
KILL_ROUNDS = 200


def adopt_orphans():
    """Makes orphaned descendants children of this process, where there is such a thing."""
    if not sys.platform.startswith("linux"):
        return
    try:
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        return


def user_tasks():
    """Tasks that this user runs now: the process limit counts them all."""
    count = 0
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            if os.stat("/proc/" + entry).st_uid == os.getuid():
                count += len(os.listdir("/proc/" + entry + "/task"))
        except OSError:
            continue
    return count


def limiter(limits):
    """A function that sets the resource limits in the child before it starts."""
    wanted = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_AS: limits["memory_bytes"],
        resource.RLIMIT_FSIZE: limits["file_bytes"],
        resource.RLIMIT_NOFILE: limits["open_files"],
        resource.RLIMIT_CPU: limits["cpu_s"],
    }
    if sys.platform.startswith("linux"):
        wanted[resource.RLIMIT_NPROC] = user_tasks() + limits["processes"]

    def apply():
        for which, value in wanted.items():
            if value is None:
                continue
            hard = resource.getrlimit(which)[1]
            if hard != resource.RLIM_INFINITY:
                value = min(value, hard)
            try:
                resource.setrlimit(which, (value, value))
            except (ValueError, OSError):
                # macOS refuses some of them; the others still hold.
                if sys.platform.startswith("linux"):
                    raise

    return apply


def descendants():
    """Every process below this one, by the parent links of the process table."""
    children = {}
    try:
        entries = os.listdir("/proc")
    except OSError:
        return []
    for entry in entries:
        if not entry.isdigit():
            continue
        try:
            with open("/proc/" + entry + "/stat", "rb") as stat:
                fields = stat.read().rpartition(b")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(entry))
        except (OSError, IndexError, ValueError):
            continue
    found, queue = [], [os.getpid()]
    while queue:
        below = children.get(queue.pop(), [])
        found.extend(below)
        queue.extend(below)
    return found


def reap(statuses):
    """Collects every child that has ended. False when no child is left."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True
        statuses[pid] = status


def send(pid, number, group=False):
    try:
        (os.killpg if group else os.kill)(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def kill_all(main_pid, statuses, poller, wake):
    """Kills what is left until there is nothing to wait for; returns how many were left."""
    reap(statuses)
    left = [pid for pid in descendants() if pid != main_pid]
    for _ in range(KILL_ROUNDS):
        send(main_pid, signal.SIGKILL, group=True)
        for pid in descendants():
            send(pid, signal.SIGKILL)
        if not reap(statuses):
            break
        wait(poller, wake, 0.05)
    return len(left)


def wait(poller, wake, seconds):
    """Sleeps until a child ends, the lifeline closes or the time is over."""
    events = {fd for fd, _ in poller.poll(max(0, int(seconds * 1000)))}
    if wake in events:
        try:
            os.read(wake, 4096)
        except BlockingIOError:
            pass
    return events


def main():
    """SPEC: ``command``, ``cwd``, ``timeout_s``, ``status_fd``, ``limits``."""
    spec = json.loads(sys.argv[1])
    status_fd = spec["status_fd"]
    os.set_inheritable(status_fd, False)
    adopt_orphans()

    wake, wake_end = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(wake_end, False)
    signal.set_wakeup_fd(wake_end, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    poller = select.poll()
    poller.register(wake, select.POLLIN)
    poller.register(0, select.POLLIN | select.POLLHUP)

    outcome = {"code": None, "signal": None, "timed_out": False, "stopped": False}
    try:
        child = subprocess.Popen(
            spec["command"],
            cwd=spec["cwd"],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=limiter(spec["limits"]),
        )
    except (OSError, subprocess.SubprocessError) as error:
        outcome["error"] = str(error)
        os.write(status_fd, json.dumps(outcome).encode())
        return

    statuses = {}
    deadline = time.monotonic() + spec["timeout_s"]
    while child.pid not in statuses:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            outcome["timed_out"] = True
            break
        if 0 in wait(poller, wake, min(left_s, 3600.0)):
            outcome["stopped"] = True
            break
        reap(statuses)

    if outcome["timed_out"]:
        send(child.pid, signal.SIGABRT)
        grace = time.monotonic() + ABORT_GRACE_S
        while child.pid not in statuses and time.monotonic() < grace:
            if 0 in wait(poller, wake, grace - time.monotonic()):
                break
            reap(statuses)

    outcome["survivors"] = kill_all(child.pid, statuses, poller, wake)
    status = statuses.get(child.pid)
    if status is not None:
        if os.WIFSIGNALED(status):
            outcome["signal"] = os.WTERMSIG(status)
        else:
            outcome["code"] = os.WEXITSTATUS(status)
    os.write(status_fd, json.dumps(outcome).encode())
    # Popen never learned that its child was reaped; say nothing about it.
    child.returncode = 0


main()
