"""A websocket of our own, as small as RFC 6455 allows for a client that talks to one Jupyter server: text messages, no extensions."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import socket
import ssl
import struct
from collections.abc import Mapping
from urllib.parse import urlsplit

from himalia._connection import LOOPBACK, is_localhost
from himalia.errors import Forbidden, NotFound, Unavailable

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x1, 0x2, 0x8, 0x9, 0xA
_LARGEST = 64 << 20


class Closed(Unavailable):
    """The other side ended the connection."""


class WebSocket:
    """An open connection. Not for several threads."""

    def __init__(self, url: str, *, headers: Mapping[str, str], timeout: float = 60.0) -> None:
        parts = urlsplit(url)
        host = parts.hostname or ""
        secure = parts.scheme in ("https", "wss")
        port = parts.port or (443 if secure else 80)
        try:
            raw = socket.create_connection((LOOPBACK if is_localhost(host) else host, port), timeout)
            self._socket: socket.socket = (
                ssl.create_default_context().wrap_socket(raw, server_hostname=host) if secure else raw
            )
        except OSError as error:
            raise Unavailable(f"{parts.netloc} does not answer ({error}).", code="unreachable") from error
        self._unread = b""
        try:
            self._shake_hands(parts.netloc, f"{parts.path}?{parts.query}" if parts.query else parts.path, headers)
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> WebSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def settimeout(self, seconds: float) -> None:
        self._socket.settimeout(seconds)

    def send(self, text: str) -> None:
        self._frame(_TEXT, text.encode())

    def receive(self) -> str:
        """The next text message; Closed at the end, TimeoutError when none comes. Pings are answered, binary messages passed over."""
        kind, message = 0, b""
        while True:
            final, opcode, payload = self._read_frame()
            if opcode == _CLOSE:
                raise Closed("The workspace's server ended the connection.", code="connection_closed")
            if opcode == _PING:
                self._frame(_PONG, payload)
                continue
            if opcode == _PONG:
                continue
            kind, message = opcode or kind, message + payload
            if len(message) > _LARGEST:
                raise Closed("The workspace's server sent a message without end.", code="connection_closed")
            if final:
                if kind == _TEXT:
                    return message.decode(errors="replace")
                kind, message = 0, b""

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._frame(_CLOSE, struct.pack(">H", 1000))
        self._socket.close()

    def _shake_hands(self, host: str, target: str, headers: Mapping[str, str]) -> None:
        key = base64.b64encode(os.urandom(16))
        lines = [
            f"GET {target} HTTP/1.1",
            f"Host: {host}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key.decode()}",
            "Sec-WebSocket-Version: 13",
        ]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())
        while b"\r\n\r\n" not in self._unread:
            if len(self._unread) > 65536:
                raise Unavailable("The workspace's server did not answer as a websocket.", code="no_websocket")
            self._fill()
        head, _, self._unread = self._unread.partition(b"\r\n\r\n")
        status, *fields = head.decode("latin-1").split("\r\n")
        answered = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in fields)}
        code = int(([*status.split(), "0", "0"])[1])
        if code in (401, 403):
            raise Forbidden(
                "The workspace's server refused this login. A token for it carries the scope access:servers!user: log in again.",
                status=code,
            )
        if code == 404:
            raise NotFound("The workspace's server has no such kernel.", status=code)
        expected = base64.b64encode(hashlib.sha1(key + _GUID).digest()).decode()
        if code != 101 or answered.get("sec-websocket-accept") != expected:
            raise Unavailable(
                f"The workspace's server did not open a websocket (it answered {code}).",
                status=code,
                code="no_websocket",
            )

    def _frame(self, opcode: int, payload: bytes) -> None:
        size = len(payload)
        length = (
            bytes([0x80 | size])
            if size < 126
            else b"\xfe" + struct.pack(">H", size)
            if size < 65536
            else b"\xff" + struct.pack(">Q", size)
        )
        mask = os.urandom(4)
        repeated = (mask * (size // 4 + 1))[:size]
        masked = (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(size, "big")
        self._socket.sendall(bytes([0x80 | opcode]) + length + mask + masked)

    def _read_frame(self) -> tuple[bool, int, bytes]:
        first, second = self._take(2)
        size = second & 0x7F
        if size == 126:
            (size,) = struct.unpack(">H", self._take(2))
        elif size == 127:
            (size,) = struct.unpack(">Q", self._take(8))
        if second & 0x80 or size > _LARGEST:
            raise Closed("The workspace's server broke the websocket protocol.", code="connection_closed")
        return bool(first & 0x80), first & 0x0F, self._take(size)

    def _take(self, size: int) -> bytes:
        while len(self._unread) < size:
            self._fill()
        taken, self._unread = self._unread[:size], self._unread[size:]
        return taken

    def _fill(self) -> None:
        chunk = self._socket.recv(65536)
        if not chunk:
            raise Closed("The workspace's server ended the connection.", code="connection_closed")
        self._unread += chunk
