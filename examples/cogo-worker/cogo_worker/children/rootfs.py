"""The file system of a sandbox, for ``confine.py``.

Made by process 1 of the sandbox, in its own mount namespace. What is not put
here is not there: no home directory, no state of the worker, no sockets.
"""

import os

from system import LIBC, check, mount, write

# Whom the command runs as; outside it is this user, or nobody where that is root.
INSIDE_ID = 65534
DEVICES = ("null", "zero", "full", "random", "urandom")
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_NOATIME, MS_NODIRATIME, MS_BIND, MS_REC, MS_PRIVATE = 1 << 10, 1 << 11, 1 << 12, 1 << 14, 1 << 18
MS_RELATIME = 1 << 21
ST_RELATIME = 1 << 12
MNT_DETACH = 2


def bind(source, root):
    """Shows a file or directory of the system at its own place; a link stays a link."""
    target = root + source
    if not os.path.lexists(source):
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(source):
        os.symlink(os.readlink(source), target)
        return
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT, 0o644))
    mount(source, target, None, MS_BIND | MS_REC)


def make_root(spec):
    """The file system of the sandbox: the system's programs read-only, and a scratch directory."""
    root = spec["root"]
    limits = spec["limits"]
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    mount("sandbox", root, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,nr_inodes=4k,mode=755")
    for path in spec["read_only"]:
        bind(path, root)
    os.makedirs(root + "/dev", exist_ok=True)
    for name in DEVICES:
        bind("/dev/" + name, root)
    for name, target in (("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("shm", "/scratch/tmp"),
                         ("stdout", "/proc/self/fd/1"), ("stderr", "/proc/self/fd/2")):
        os.symlink(target, root + "/dev/" + name)
    os.makedirs(root + "/etc", exist_ok=True)
    write(root + "/etc/passwd", "nobody:x:%d:%d::/scratch:/bin/sh\n" % (INSIDE_ID, INSIDE_ID))
    write(root + "/etc/group", "nogroup:x:%d:\n" % INSIDE_ID)
    write(root + "/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n")
    os.mkdir(root + "/proc")
    mount("proc", root + "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    # Nobody in here makes another user namespace, and with it new privileges.
    write(root + "/proc/sys/user/max_user_namespaces", "0")
    os.symlink("/scratch/tmp", root + "/tmp")
    os.mkdir(root + "/scratch")
    options = "size=%d,nr_inodes=%d,mode=700,uid=%d,gid=%d" % (
        limits["disk_bytes"], limits["entries"], INSIDE_ID, INSIDE_ID)
    mount("scratch", root + "/scratch", "tmpfs", MS_NOSUID | MS_NODEV, options)
    fill(spec, root + "/scratch")
    seal(root)
    os.chdir(root)
    check("changing the root", LIBC.pivot_root(b".", b"."))
    check("leaving the old root", LIBC.umount2(b".", MNT_DETACH))
    os.chdir("/scratch")


def fill(spec, directory):
    """The files of the request, and a place for temporary ones."""
    names = [os.path.join(directory, "tmp")]
    os.mkdir(names[0], 0o700)
    for name, content in spec["files"].items():
        names.append(os.path.join(directory, name))
        with open(names[-1], "w", encoding="utf-8") as file:
            file.write(content)
    if spec["isolate"]:
        for name in names:
            os.chown(name, INSIDE_ID, INSIDE_ID)


def seal(root):
    """Makes all that was mounted read-only, but the scratch directory and the devices."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        points = [line.split()[4] for line in file]
    for point in points:
        for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
            point = point.replace(code, char)
        inside = point == root or point.startswith(root + "/")
        if not inside or point == root + "/scratch" or point.startswith(root + "/dev/"):
            continue
        flags = os.statvfs(point).f_flag
        # What the mount had cannot be taken off it by an unprivileged user.
        kept = flags & (MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME | MS_NODIRATIME)
        if flags & ST_RELATIME:
            kept |= MS_RELATIME
        mount(None, point, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | kept)
