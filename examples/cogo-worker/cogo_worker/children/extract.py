"""Unpacks one source archive into an empty directory, or says why it will not.

    python -I -S extract.py ARCHIVE DIRECTORY MAX_ENTRIES MAX_BYTES

A program of its own, so that a decompression bomb meets the limits of a child.
Prints one JSON object: ``{"entries": n}``, or ``{"refused": "…"}`` for a
hostile or broken archive. Links are made last, and only where they lead to
something inside: no file is ever written through one.
"""

import json
import lzma
import os
import posixpath
import shutil
import stat
import sys
import tarfile
import zipfile
import zlib

CHUNK = 1 << 16
NAME_BYTES = 4096
DEPTH = 64


class Refused(Exception):
    """The archive is not one to unpack."""


class Target:
    """The directory that is filled, and how much may go into it."""

    def __init__(self, root, max_entries, max_bytes):
        self.root = os.path.realpath(root)
        self.max_entries = max_entries
        self.max_bytes = max_bytes
        self.entries = 0
        self.bytes = 0
        self.symlinks = {}

    def enter(self, name):
        """Counts one entry and returns its checked relative path."""
        self.entries += 1
        if self.entries > self.max_entries:
            raise Refused("more than %d entries" % self.max_entries)
        return inside(name, name)

    def path(self, relative):
        return os.path.join(self.root, *relative.split("/")) if relative else self.root

    def parent(self, relative):
        """Makes the directories above an entry; none of them can be a link yet."""
        os.makedirs(os.path.dirname(self.path(relative)), exist_ok=True)

    def directory(self, relative):
        os.makedirs(self.path(relative), exist_ok=True)

    def file(self, relative, source, executable):
        if not relative:
            raise Refused("an entry without a name")
        self.parent(relative)
        self.symlinks.pop(relative, None)
        path = self.path(relative)
        # A later entry of the same name replaces the earlier one, as tar does.
        if os.path.lexists(path):
            os.unlink(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(path, flags, 0o755 if executable else 0o644), "wb") as out:
            while True:
                chunk = source.read(CHUNK)
                if not chunk:
                    return
                self.bytes += len(chunk)
                if self.bytes > self.max_bytes:
                    raise Refused("unpacks to more than %d bytes" % self.max_bytes)
                out.write(chunk)

    def symlink(self, relative, target, name):
        if not relative:
            raise Refused("an entry without a name")
        if posixpath.isabs(target) or not target or "\0" in target:
            raise Refused("the link %s leads out of the archive" % show(name))
        inside(posixpath.join(posixpath.dirname(relative), target), name, link=True)
        self.symlinks[relative] = target

    def make_symlinks(self):
        for relative, target in self.symlinks.items():
            self.parent(relative)
            path = self.path(relative)
            if os.path.lexists(path):
                raise Refused("the link %s takes the place of a file" % show(relative))
            os.symlink(target, path)
        # By names alone a chain of links can still climb; ask where each one ends.
        for relative in self.symlinks:
            real = os.path.realpath(self.path(relative))
            if real != self.root and not real.startswith(self.root + os.sep):
                raise Refused("the link %s leads out of the archive" % show(relative))


def show(name):
    return ascii(name)[:200]


def inside(path, name, link=False):
    """The path without its dots, if it stays inside; else refuses the archive."""
    what = "the link %s leads" % show(name) if link else "the entry %s leads" % show(name)
    if len(os.fsencode(path)) > NAME_BYTES or "\0" in path:
        raise Refused("an entry has an unusable name")
    if posixpath.isabs(path) or "\\" in path or (len(path) > 1 and path[1] == ":"):
        raise Refused(what + " out of the archive")
    if not link and ".." in path.split("/"):
        raise Refused(what + " out of the archive")
    clean = posixpath.normpath(path)
    if clean == ".." or clean.startswith("../"):
        raise Refused(what + " out of the archive")
    if clean.count("/") > DEPTH:
        raise Refused("an entry is nested more than %d deep" % DEPTH)
    return "" if clean == "." else clean


def unpack_tar(path, target):
    with tarfile.open(path, "r:*") as archive:
        for member in archive:
            relative = target.enter(member.name)
            if member.isdir():
                target.directory(relative)
            elif member.isreg():
                target.file(relative, archive.extractfile(member), member.mode & 0o111)
            elif member.issym():
                target.symlink(relative, member.linkname, member.name)
            elif member.islnk():
                copy_link(target, relative, inside(member.linkname, member.name, link=True))
            else:
                raise Refused("the entry %s is a device or pipe" % show(member.name))


def copy_link(target, relative, linked):
    """A hard link becomes a copy of what was unpacked before it."""
    path = target.path(linked)
    if not linked or not os.path.isfile(path) or os.path.islink(path):
        raise Refused("the hard link %s has no target" % show(relative))
    with open(path, "rb") as source:
        if linked != relative:
            target.file(relative, source, os.stat(path).st_mode & 0o111)


def unpack_zip(path, target):
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            relative = target.enter(info.filename)
            mode = info.external_attr >> 16
            kind = stat.S_IFMT(mode)
            if info.flag_bits & 0x1:
                raise Refused("the archive is encrypted")
            if info.is_dir():
                target.directory(relative)
            elif kind == stat.S_IFLNK:
                with archive.open(info) as source:
                    link = os.fsdecode(source.read(NAME_BYTES))
                target.symlink(relative, link, info.filename)
            elif kind in (0, stat.S_IFREG):
                with archive.open(info) as source:
                    target.file(relative, source, mode & 0o111)
            else:
                raise Refused("the entry %s is a device or pipe" % show(info.filename))


def main():
    archive, directory, max_entries, max_bytes = sys.argv[1:5]
    target = Target(directory, int(max_entries), int(max_bytes))
    try:
        if zipfile.is_zipfile(archive) and archive.lower().endswith(".zip"):
            unpack_zip(archive, target)
        else:
            unpack_tar(archive, target)
        target.make_symlinks()
        answer = {"entries": target.entries}
    except Refused as error:
        answer = {"refused": str(error)}
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        RuntimeError,
        NotImplementedError,
        ValueError,
        UnicodeError,
        OverflowError,
    ) as error:
        answer = {"refused": "not a readable archive (%s)" % error}
    except MemoryError:
        answer = {"refused": "needs too much memory to unpack"}
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        answer = {"refused": "two entries are in each other's way (%s)" % error.strerror}
    except OSError as error:
        # bz2 and gzip report bad data as an OSError without a number.
        if error.errno is None:
            answer = {"refused": "not a readable archive (%s)" % error}
        else:
            answer = {"errno": error.errno}
    if "entries" not in answer:
        shutil.rmtree(target.root, ignore_errors=True)
    print(json.dumps(answer))


main()
