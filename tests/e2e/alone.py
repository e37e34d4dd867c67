#!/usr/bin/env python3
"""Run a browser in a network of its own, with one way out: the installation's port on loopback.

Chromium drops what it is loading whenever an address of the machine appears or goes (ERR_NETWORK_CHANGED), and every container
that starts brings one. In a network of its own nothing changes, and whatever a page wants from elsewhere is not there.
Where networks cannot be made, the browser runs as it always does.

    HIMALIA_BROWSER=/usr/bin/chromium HIMALIA_BROWSER_PORT=8000 alone.py --headless ...
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import signal
import socket
import struct
import sys
from contextlib import suppress

CLONE_NEWUSER, CLONE_NEWNET = 0x1000_0000, 0x4000_0000
PR_SET_PDEATHSIG, SIOCSIFFLAGS, IFF_UP = 1, 0x8914, 0x1


def end_with_parent() -> None:
    """The browser's end is this process's end."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def leave() -> bool:
    """Move this process into a new network whose loopback is up; False when it may not."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) and libc.unshare(CLONE_NEWUSER | CLONE_NEWNET):
        return False
    with socket.socket() as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
    return True


def browse(browser: str, port: int, way: socket.socket) -> None:
    """Become the browser, after the door of its network was handed out."""
    if leave():
        # a socket stays in the network it was made in, whoever accepts from it
        with socket.create_server(("127.0.0.1", port), backlog=256) as door:
            socket.send_fds(way, [b"door"], [door.fileno()])
    way.close()
    os.execv(browser, [browser, *sys.argv[1:]])


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One direction of one connection, until its end."""
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with suppress(ConnectionError, OSError):
        writer.write_eof()


async def relay(door: socket.socket, port: int) -> None:
    """Whoever comes to the door is led to the port outside."""

    async def lead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            outside, into = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.transport.abort()
            return
        try:
            await asyncio.gather(copy(reader, into), copy(outside, writer))
        finally:
            into.close()
            writer.close()

    async with await asyncio.start_server(lead, sock=door) as server:
        await server.serve_forever()


def main() -> None:
    browser, port = os.environ["HIMALIA_BROWSER"], int(os.environ["HIMALIA_BROWSER_PORT"])
    ours, theirs = socket.socketpair()
    if os.fork():
        ours.close()
        browse(browser, port, theirs)
    end_with_parent()
    theirs.close()
    _, doors, _, _ = socket.recv_fds(ours, 16, 1)
    for pipe in (3, 4):  # what the browser is told by: its end must be seen by the browser alone
        with suppress(OSError):
            os.close(pipe)
    if doors:
        asyncio.run(relay(socket.socket(fileno=doors[0]), port))


if __name__ == "__main__":
    main()
