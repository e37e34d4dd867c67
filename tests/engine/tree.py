"""Runs inside containers, by their own Python: makes trees as it is told on stdin, and lists the whole tree it lives in.

`python tree.py make` reads a JSON list of operations; `python tree.py list` prints what a save must keep of every name.
"""

import hashlib
import json
import os
import stat
import sys

SKIPPED = {
    "/proc",
    "/sys",
    "/dev",
    "/run",
    "/.dockerenv",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/resolv.conf",
    "/etc/mtab",
}


def make(operations):
    """Applies what can be; an operation that the tree does not allow (a file below a file) does nothing."""
    failed = 0
    for operation in operations:
        verb, *rest = operation
        try:
            VERBS[verb](*rest)
        except OSError:
            failed += 1
    return failed


def _file(path, content, repeat, mode, owner, mtime):
    with open(path, "wb") as file:
        file.write(os.fsencode(content) * repeat)
    os.chown(path, owner, owner)
    os.chmod(path, mode)
    os.utime(path, ns=(mtime, mtime))


def _folder(path, mode, owner):
    os.mkdir(path)
    os.chown(path, owner, owner)
    os.chmod(path, mode)


def _remove(path):
    if os.path.isdir(path) and not os.path.islink(path):
        for name in os.listdir(path):
            _remove(os.path.join(path, name))
        os.rmdir(path)
    else:
        os.remove(path)


def _sparse(path, size):
    with open(path, "wb") as file:
        file.seek(size - 1)
        file.write(b"x")


def _socket(path):
    import socket

    with socket.socket(socket.AF_UNIX) as own:
        own.bind(path)


VERBS = {
    "file": _file,
    "folder": _folder,
    "remove": _remove,
    "sparse": _sparse,
    "socket": _socket,
    "link": lambda target, path: os.link(target, path, follow_symlinks=False),
    "symlink": lambda target, path: os.symlink(target, path),
    "rename": lambda old, new: os.rename(old, new),
    "append": lambda path, text: open(path, "a").write(text),  # noqa: SIM115
    "fifo": lambda path, mode: os.mkfifo(path, mode),
    "chmod": lambda path, mode: os.chmod(path, mode),
    "chown": lambda path, owner: os.lchown(path, owner, owner),
    "attribute": lambda path, name, value: os.setxattr(path, name, bytes.fromhex(value)),
    "touch": lambda path, mtime: os.utime(path, ns=(mtime, mtime), follow_symlinks=False),
}


def listing():
    found = {}
    firsts = {}
    for folder, folders, files in os.walk("/"):
        folders[:] = [name for name in folders if os.path.join(folder, name) not in SKIPPED]
        folders.sort()
        for name in sorted(folders + files):
            path = os.path.join(folder, name)
            if path not in SKIPPED:
                entry = _entry(path, firsts)
                if entry is not None:
                    found[os.fsencode(path).hex()] = entry
    return found


def _entry(path, firsts):
    status = os.lstat(path)
    mode = status.st_mode
    if stat.S_ISSOCK(mode) or "/.wh." in path:
        return None
    entry = [stat.S_IFMT(mode), stat.S_IMODE(mode), status.st_uid, status.st_gid]
    # Docker writes below /etc when it makes a container
    entry.append(0 if path == "/etc" else status.st_mtime_ns)
    if stat.S_ISREG(mode):
        with open(path, "rb") as file:
            entry += [status.st_size, hashlib.file_digest(file, "sha256").hexdigest()]
    if stat.S_ISLNK(mode):
        entry.append(os.fsencode(os.readlink(path)).hex())
    else:
        names = sorted(os.listxattr(path, follow_symlinks=False))
        entry.append([[name, os.getxattr(path, name, follow_symlinks=False).hex()] for name in names])
    if status.st_nlink > 1 and not stat.S_ISDIR(mode):
        first = firsts.setdefault((status.st_dev, status.st_ino), os.fsencode(path).hex())
        entry.append(first)
    return entry


if __name__ == "__main__":
    if sys.argv[1] == "make":
        print(make(json.load(sys.stdin)))
    else:
        print(json.dumps(listing()))
