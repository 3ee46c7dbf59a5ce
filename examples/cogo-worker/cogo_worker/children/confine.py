"""Runs one command in isolation, or a test run without a network.

    python -I -S confine.py sandbox SPEC         SPEC: a JSON file, see ``sandbox``
    python -I -S confine.py network COMMAND…     new network, loopback only

A sandbox is four processes: this one watches what is used and ends it all; a
second enters new namespaces (user, process, mount, network, IPC, host name); the
third, process 1 of the new process namespace, makes the file system; the fourth
drops every privilege and becomes the command. When process 1 ends the kernel
kills whatever is left, so nothing outlives the command.

It fails closed: if any part of the isolation cannot be had, the command does not
start and the status file says why. Needs Linux and nothing else.
"""

import ctypes
import fcntl
import json
import os
import platform
import resource
import select
import signal
import socket
import struct
import sys
import time

NEWNS, NEWUTS, NEWIPC = 0x00020000, 0x04000000, 0x08000000
NEWUSER, NEWPID, NEWNET = 0x10000000, 0x20000000, 0x40000000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP = 1, 4, 22, 24
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38
TICK_S = 0.1
PAGE = os.sysconf("SC_PAGE_SIZE")
# Calls that get around a limit or are of use only to break out: number by architecture.
DENIED = {
    "x86_64": (0xC000003E, (
        319, 447, 29, 101, 248, 249, 250, 321, 298, 323, 425, 272, 308, 165, 166, 155, 304, 163,
    )),
    "aarch64": (0xC00000B7, (
        279, 447, 194, 117, 217, 218, 219, 280, 241, 282, 425, 97, 268, 40, 39, 41, 265, 89,
    )),
}
# Started with -I: nothing is imported from beside a script unless it says so.
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from rootfs import INSIDE_ID, fill, make_root  # noqa: E402
from system import LIBC, Failed, prctl, unshare, write  # noqa: E402
from usage import Watch, cpu_ms, descendants, processes  # noqa: E402


def loopback_up():
    """A new network has a loopback that is down, and nothing else."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        up_and_running = 0x1 | 0x40
        fcntl.ioctl(handle, 0x8914, struct.pack("16sH14x", b"lo", up_and_running))


def without_network(command):
    """Becomes the command in a network of its own."""
    uid, gid = os.getuid(), os.getgid()
    unshare(NEWUSER | NEWNET)
    write("/proc/self/setgroups", "deny")
    write("/proc/self/uid_map", "%d %d 1" % (uid, uid))
    write("/proc/self/gid_map", "%d %d 1" % (gid, gid))
    loopback_up()
    os.execvp(command[0], command)


def set_limits(limits, isolated):
    wanted = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: -(-limits["cpu_ms"] // 1000) + 1,
        # What a process can write to; reserved address space costs nothing.
        resource.RLIMIT_DATA: limits["memory_bytes"],
        resource.RLIMIT_NOFILE: limits["open_files"],
        # A scratch directory that is full says so; this is for where there is no such bound.
        resource.RLIMIT_FSIZE: limits["disk_bytes"] + (PAGE if isolated else 0),
        resource.RLIMIT_NPROC: limits["processes"] + limits["processes_before"],
    }
    for name in ("RLIMIT_MSGQUEUE", "RLIMIT_MEMLOCK"):
        if hasattr(resource, name):
            wanted[getattr(resource, name)] = 0
    for which, value in wanted.items():
        hard = resource.getrlimit(which)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (value, value))


def drop_privileges(was_root):
    for capability in range(64):
        if LIBC.prctl(PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0) != 0:
            break
    if was_root:
        os.setgroups([])
        os.setresgid(INSIDE_ID, INSIDE_ID, INSIDE_ID)
        os.setresuid(INSIDE_ID, INSIDE_ID, INSIDE_ID)


def filter_calls():
    """Refuses the calls of ``DENIED``, and those of another architecture."""
    if platform.machine() not in DENIED or sys.maxsize < 1 << 32:
        return
    architecture, numbers = DENIED[platform.machine()]
    load, equal, at_least, answer = 0x20, 0x15, 0x35, 0x06
    refuse, allow = 0x00050000 | 1, 0x7FFF0000
    # A jump counts the instructions it passes over: if so, if not.
    program = [(load, 0, 0, 4), (equal, 1, 0, architecture), (answer, 0, 0, refuse), (load, 0, 0, 0)]
    # Numbers of the x32 architecture begin here; no other architecture has so many.
    program += [(at_least, 0, 1, 0x40000000), (answer, 0, 0, refuse)]
    for number in numbers:
        program += [(equal, 0, 1, number), (answer, 0, 0, refuse)]
    program.append((answer, 0, 0, allow))
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    head = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer)))
    prctl("filtering system calls", PR_SET_SECCOMP, 2, ctypes.addressof(head))


def become(spec, was_root):
    """Turns this process into the command."""
    isolated = spec["isolate"]
    try:
        os.setsid()
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        set_limits(spec["limits"], isolated)
        if isolated:
            drop_privileges(was_root)
        prctl("giving up new privileges", PR_SET_NO_NEW_PRIVS, 1)
        if isolated:
            filter_calls()
    except (Failed, OSError, ValueError) as error:
        return str(error)
    try:
        os.execvpe(spec["command"][0], spec["command"], spec["env"])
    except (OSError, ValueError) as error:
        # As a shell says it: the command ended, not the sandbox.
        name = spec["command"][0].encode("utf-8", "replace")[:200]
        reason = getattr(error, "strerror", None) or str(error)
        os.write(2, b"cannot run " + name + b": " + reason.encode() + b"\n")
        os._exit(126 if isinstance(error, PermissionError) else 127)


def start(spec, was_root, failure):
    """Forks the command; what keeps it from starting goes to ``failure``."""
    pid = os.fork()
    if pid == 0:
        try:
            message = become(spec, was_root)
            os.write(failure, json.dumps({"error": message}).encode())
        finally:
            os._exit(125)
    return pid


def ended(status):
    if os.WIFSIGNALED(status):
        return {"code": None, "signal": os.WTERMSIG(status)}
    return {"code": os.WEXITSTATUS(status), "signal": None}


def process_one(spec, was_root, status_fd):
    """The first process inside: makes the sandbox, starts the command, buries orphans."""
    try:
        # Python's own handler would make Ctrl-C an end of process 1.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        make_root(spec)
        loopback_up()
        socket.sethostname("sandbox")
        prctl("hiding process 1", PR_SET_DUMPABLE, 0)
        pid = start(spec, was_root, status_fd)
        while True:
            found, status = os.wait()
            if found == pid:
                break
        os.write(status_fd, json.dumps(ended(status)).encode())
    except (Failed, OSError, ValueError) as error:
        os.write(status_fd, json.dumps({"error": str(error)}).encode())
    finally:
        os._exit(0)


def inside(spec, was_root, up, go, status_fd):
    """The process that enters the namespaces; its child is process 1 of them."""
    try:
        prctl("following the parent", PR_SET_PDEATHSIG, signal.SIGKILL)
        unshare(NEWUSER | NEWNS | NEWPID | NEWNET | NEWIPC | NEWUTS)
        os.write(up, b"+")
        if os.read(go, 1) != b"+":
            os._exit(0)
        if was_root:
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
        first = os.fork()
        if first == 0:
            prctl("following the parent", PR_SET_PDEATHSIG, signal.SIGKILL)
            process_one(spec, was_root, status_fd)
        os.close(status_fd)
        os.waitpid(first, 0)
    except (Failed, OSError) as error:
        os.write(status_fd, json.dumps({"error": str(error)}).encode())
    finally:
        os._exit(0)


def map_ids(pid, was_root):
    """Says who the users inside are outside."""
    if was_root:
        both = "0 0 1\n%d %d 1\n" % (INSIDE_ID, INSIDE_ID)
        write("/proc/%d/uid_map" % pid, both)
        write("/proc/%d/gid_map" % pid, both)
        return
    write("/proc/%d/setgroups" % pid, "deny")
    write("/proc/%d/uid_map" % pid, "%d %d 1\n" % (INSIDE_ID, os.getuid()))
    write("/proc/%d/gid_map" % pid, "%d %d 1\n" % (INSIDE_ID, os.getgid()))


def launch_isolated(spec, status_fd, other_end, watch):
    was_root = os.geteuid() == 0
    up, up_end = os.pipe()
    go_end, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(other_end)
        os.close(up)
        os.close(go)
        inside(spec, was_root, up_end, go_end, status_fd)
    os.close(up_end)
    os.close(go_end)
    try:
        if os.read(up, 1) == b"+":
            map_ids(pid, was_root)
            os.write(go, b"+")
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        os.close(up)
        os.close(go)
    watch.own.add(pid)
    return pid


def end_all():
    """Kills every process below this one, again and again until there is none to kill."""
    while True:
        below = descendants(processes())
        for pid in below:
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
        try:
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:
            return
        time.sleep(0.01)


def sandbox(spec):
    """SPEC: ``command``, ``env``, ``files``, ``isolate``, ``root``, ``read_only``, ``limits``, ``status``."""
    prctl("adopting orphans", PR_SET_CHILD_SUBREAPER, 1)
    scratch = None if spec["isolate"] else spec["root"]
    watch = Watch(spec["limits"], scratch)
    status, status_end = os.pipe()
    if spec["isolate"]:
        launch_isolated(spec, status_end, status, watch)
        main = None
    else:
        fill(spec, scratch)
        os.chdir(scratch)
        main = start(spec, False, status_end)
    os.close(status_end)
    outcome = {"code": None, "signal": None}
    limit, said = watch_over(status, main, watch, outcome)
    found = processes()
    used = cpu_ms(found, descendants(found))
    end_all()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = max(used, int((usage.ru_utime + usage.ru_stime) * 1000))
    if said:
        # The first word counts: a command that was not started ends, too.
        outcome.update(json.JSONDecoder().raw_decode(said.decode())[0])
    elif main is None and limit is None:
        outcome["signal"] = int(signal.SIGKILL)
    if limit is None and outcome["signal"] == signal.SIGXCPU:
        limit = "cpu_ms"
    if limit is not None:
        outcome.update(code=None, signal=outcome["signal"] or int(signal.SIGKILL))
    return dict(outcome, limit=limit, cpu_ms=used)


def watch_over(status, main, watch, outcome):
    """Waits for the end: of process 1, which closes ``status``, or of the child ``main``.

    Returns the limit that was passed, if one was, and what came over ``status``.
    """
    said, limit = b"", None
    poller = select.poll()
    poller.register(status, select.POLLIN | select.POLLHUP)
    while limit is None:
        if poller.poll(TICK_S * 1000 if main is None else 0):
            piece = os.read(status, 65536)
            said += piece
            if not piece and main is None:
                break
            if not piece:
                poller.unregister(status)
        if main is not None:
            if reaped(main, outcome):
                break
            time.sleep(TICK_S / 2)
        limit = watch.passed()
    return limit, said


def reaped(main, outcome):
    """Buries what has ended. True once the command is among it."""
    try:
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == main:
                outcome.update(ended(status))
                return True
            if pid == 0:
                return False
    except ChildProcessError:
        return True


def main():
    mode = sys.argv[1]
    if mode == "network":
        try:
            without_network(sys.argv[2:])
        except (Failed, OSError) as error:
            sys.exit("no network of its own: %s" % error)
    # The command's user has to pass through directories that are made here.
    os.umask(0o022)
    with open(sys.argv[2], encoding="utf-8") as file:
        spec = json.load(file)
    try:
        outcome = sandbox(spec)
    except (Failed, OSError) as error:
        outcome = {"error": str(error)}
    with open(spec["status"], "w", encoding="utf-8") as file:
        json.dump(outcome, file)


main()
