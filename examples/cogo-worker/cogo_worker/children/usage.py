"""What the processes below this one use, for ``confine.py``.

Reads the process table; never changes anything. What it finds is a moment's
picture: a limit is passed some time before it is seen here.
"""

import os
import resource
import time

# The processes that make a sandbox are below this one, too.
SPARE_PROCESSES = 8
PAGE = os.sysconf("SC_PAGE_SIZE")
CLOCK = os.sysconf("SC_CLK_TCK")


class Watch:
    """Says which limit the processes below this one have passed first."""

    def __init__(self, limits, scratch):
        self.limits = limits
        self.scratch = scratch
        self.deadline = time.monotonic() + limits["wall_ms"] / 1000
        # Of this process itself, and of the one that holds the namespaces.
        self.own = {os.getpid()}

    def passed(self):
        """The name of a limit, or None."""
        if time.monotonic() >= self.deadline:
            return "wall_ms"
        found = processes()
        below = [pid for pid in descendants(found) if pid not in self.own]
        if len(below) > self.limits["processes"] + SPARE_PROCESSES:
            # RLIMIT_NPROC lets a fork fail before that; this is for where it does not count.
            return "processes"
        if cpu_ms(found, below) > self.limits["cpu_ms"]:
            return "cpu_ms"
        if sum(found[pid][2] for pid in below) > self.limits["memory_bytes"]:
            # Pages shared by several processes were counted for each of them.
            if sum(proportional(pid, found[pid][2]) for pid in below) > self.limits["memory_bytes"]:
                return "memory_mb"
        if self.scratch and size_of(self.scratch) > self.limits["disk_bytes"]:
            return "disk_mb"
        return None


def processes():
    """Parent, processor time in ticks and resident bytes of every process."""
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open("/proc/%s/stat" % entry, "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
            ticks = sum(int(field) for field in fields[11:15])
            found[int(entry)] = (int(fields[1]), ticks, int(fields[21]) * PAGE)
        except (OSError, IndexError, ValueError):
            continue
    return found


def descendants(found):
    children = {}
    for pid, (parent, _, _) in found.items():
        children.setdefault(parent, []).append(pid)
    below, queue = [], [os.getpid()]
    while queue:
        more = children.get(queue.pop(), [])
        below.extend(more)
        queue.extend(more)
    return below


def cpu_ms(found, below):
    """Of the living with what they have waited for, and of those this process waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    ticks = sum(found[pid][1] for pid in below)
    return int(ticks * 1000 / CLOCK + (usage.ru_utime + usage.ru_stime) * 1000)


def proportional(pid, otherwise):
    try:
        with open("/proc/%d/smaps_rollup" % pid, "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except (OSError, IndexError, ValueError):
        pass
    return otherwise


def size_of(directory):
    total = 0
    for path, _, files in os.walk(directory):
        for name in files:
            try:
                total += os.lstat(os.path.join(path, name)).st_blocks * 512
            except OSError:
                continue
    return total
