"""The system calls that Python's library does not have, for ``confine.py``."""

import ctypes
import os

LIBC = ctypes.CDLL(None, use_errno=True)


class Failed(Exception):
    """A part of the isolation that could not be had."""


def check(what, result):
    if result != 0:
        raise Failed("%s: %s" % (what, os.strerror(ctypes.get_errno())))


def prctl(what, option, *arguments):
    values = [ctypes.c_ulong(value) for value in arguments] + [ctypes.c_ulong(0)] * (4 - len(arguments))
    check(what, LIBC.prctl(ctypes.c_int(option), *values))


def unshare(flags):
    check("new namespaces are not allowed here", LIBC.unshare(ctypes.c_int(flags)))


def mount(source, target, kind, flags, data=None):
    def text(value):
        return None if value is None else os.fsencode(value)

    options = ctypes.c_char_p(text(data))
    result = LIBC.mount(text(source), text(target), text(kind), ctypes.c_ulong(flags), options)
    check("mounting %s" % (kind or os.path.basename(target)), result)


def write(path, content):
    try:
        with open(path, "w") as file:
            file.write(content)
    except OSError as error:
        raise Failed("%s: %s" % (path, error.strerror)) from error
