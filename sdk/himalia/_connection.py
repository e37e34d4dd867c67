"""HTTP to the control plane: addresses, retries, problem documents, server-sent events. httpx is imported at the first call."""

from __future__ import annotations

import json
import os
import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urlsplit

from himalia import __version__
from himalia.errors import HimaliaError, Invalid, NotLoggedIn, Unavailable, from_problem
from himalia.login import NO_LOGIN, Login, inside_workspace

if TYPE_CHECKING:
    import httpx

LOOPBACK = "127.0.0.1"

#: Answers that mean "not now": with one of these codes, or none, the call is made again.
_PASSING = {"", "unavailable", "hub_unavailable", "engine_unavailable", "starting"}
_PAUSES = (0.2, 0.4, 0.8, 1.6, 2.0)


@dataclass(frozen=True)
class ServerEvent:
    """One server-sent event."""

    event: str
    data: str
    id: str = ""

    def json(self) -> Any:
        return json.loads(self.data)


def is_localhost(host: str) -> bool:
    return host == "localhost" or host.endswith(".localhost")


def make_http(url: str, *, direct: bool, timeout: float = 30.0) -> httpx.Client:
    """An httpx client for `url`. `*.localhost` is this machine (RFC 6761), which glibc does not know: we connect to
    loopback and leave the Host header alone. `direct` ignores proxies of the environment: a workspace reaches its platform itself."""
    import ssl

    import httpx

    class Loopback(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            extensions = {**request.extensions, "sni_hostname": request.url.host}
            here = request.url.copy_with(host=LOOPBACK)
            return super().handle_request(
                httpx.Request(
                    request.method, here, headers=request.headers, stream=request.stream, extensions=extensions
                )
            )

    secure = urlsplit(url).scheme == "https"
    # An empty context costs nothing and fails closed should plain http lead to TLS; the real one reads every CA there is.
    verify: Any = True if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    limits = httpx.Timeout(timeout, connect=5.0)
    headers = {"User-Agent": f"himalia/{__version__}"}
    if is_localhost(urlsplit(url).hostname or ""):
        return httpx.Client(transport=Loopback(verify=verify), timeout=limits, headers=headers)
    return httpx.Client(verify=verify, timeout=limits, headers=headers, trust_env=not direct)


def to_wire(value: Any) -> dict[str, Any]:
    """The fields of a request that differ from their defaults, so that an older server is not told of newer ones."""
    data = {}
    for f in fields(value):
        given = getattr(value, f.name)
        default = f.default_factory() if f.default_factory is not MISSING else f.default
        if given != default or default is MISSING:
            data[f.name] = to_wire(given) if hasattr(given, "__dataclass_fields__") else given
    return data


class Connection:
    """Calls of one login. `patience` is how many seconds a call that may be repeated waits out a platform that restarts."""

    def __init__(self, login: Login, *, patience: float = 6.0) -> None:
        self.login = login
        self.patience = patience
        self._http: httpx.Client | None = None

    @property
    def http(self) -> httpx.Client:
        if self._http is None:
            self._http = make_http(self.login.url, direct=inside_workspace(os.environ))
        return self._http

    def close(self) -> None:
        if self._http is not None:
            self._http.close()
            self._http = None

    def url(self, path: str) -> str:
        return path if "://" in path else f"{self.login.url}/api/v1{path}"

    def get(self, path: str, *, params: Mapping[str, Any] | None = None, patience: float | None = None) -> Any:
        return self.call("GET", path, params=params, patience=patience).json()

    def create(self, path: str, body: Any) -> Any:
        """A POST that makes something. One key for all its tries: it is made once."""
        return self.call("POST", path, body=to_wire(body), headers={"Idempotency-Key": str(uuid.uuid4())}).json()

    def items(self, path: str, *, params: Mapping[str, Any] | None = None) -> Iterator[Any]:
        """All items of a list, page after page."""
        query = dict(params or {})
        while True:
            page = self.get(path, params=query)
            yield from page["items"]
            if not page.get("next_token"):
                return
            query["page_token"] = page["next_token"]

    def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        upload: Path | None = None,
        patience: float | None = None,
    ) -> httpx.Response:
        """One call, answered with its response or an error of `himalia.errors`. POSTs are repeated only with an Idempotency-Key."""
        repeatable = method != "POST" or "Idempotency-Key" in (headers or {})

        def attempt() -> httpx.Response:
            if upload is not None:
                with open(upload, "rb") as file:
                    return self._once(method, path, params=params, headers=headers, content=file)
            return self._once(method, path, params=params, headers=headers, body=body)

        return self._patiently(attempt, (self.patience if patience is None else patience) if repeatable else 0.0)

    def verb(self, path: str, body: Any = None) -> Any:
        """A POST that says how something shall be (start, stop): saying it twice is saying it once."""
        response = self.call(
            "POST",
            path,
            body=to_wire(body) if body is not None else None,
            headers={"Idempotency-Key": str(uuid.uuid4())},
        )
        return response.json() if response.content else None

    def _patiently(self, attempt: Callable[[], httpx.Response], patience: float) -> httpx.Response:
        deadline = time.monotonic() + patience
        tries = 0
        while True:
            try:
                return attempt()
            except Unavailable as error:
                pause = float(error.extra.get("retry_after") or _PAUSES[min(tries, len(_PAUSES) - 1)]) * random.uniform(
                    0.8, 1.2
                )
                if error.code not in _PASSING or time.monotonic() + pause > deadline:
                    raise
                time.sleep(pause)
                tries += 1

    def _once(
        self,
        method: str,
        path: str,
        *,
        params: Any = None,
        headers: Any = None,
        body: Any = None,
        content: BinaryIO | None = None,
    ) -> httpx.Response:
        import httpx

        sent: dict[str, Any] = {"headers": self._headers(headers), "params": params}
        if content is not None:
            sent["content"] = content
            sent["timeout"] = httpx.Timeout(300.0, connect=5.0)
        elif body is not None:
            sent["json"] = body
        with self._reaching():
            response = self.http.request(method, self.url(path), **sent)
        self._check(response)
        return response

    @contextmanager
    def stream(
        self, path: str, *, params: Mapping[str, Any] | None = None, accept: str = "*/*", read_timeout: float = 60.0
    ) -> Iterator[httpx.Response]:
        """An answer that is read as it comes."""
        import httpx

        timeout = httpx.Timeout(read_timeout, connect=5.0)
        with (
            self._reaching(),
            self.http.stream(
                "GET", self.url(path), params=params, headers=self._headers({"Accept": accept}), timeout=timeout
            ) as response,
        ):
            if response.status_code >= 300:
                response.read()
            self._check(response)
            yield response

    def events(self, path: str, *, params: Mapping[str, Any] | None = None) -> Iterator[ServerEvent]:
        """Server-sent events until the server ends the stream. A comment comes every 15 s, so silence for 60 s is a dead line."""
        with self.stream(path, params=params, accept="text/event-stream") as response:
            yield from parse_events(_lines(response.iter_bytes()))

    def _headers(self, more: Mapping[str, str] | None) -> dict[str, str]:
        return {"Accept": "application/json", "Authorization": f"Bearer {self.login.token}", **(more or {})}

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        import httpx

        try:
            yield
        except httpx.InvalidURL as error:
            raise Invalid(f"{self.login.url} is no address: {error}") from None
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise Unavailable(
                f"Himalia does not answer at {self.login.url} ({reason}). Is it up? Is HIMALIA_URL right?"
            ) from error

    def _check(self, response: httpx.Response) -> None:
        if response.is_success:
            return
        raise refusal(response, self.login)


def refusal(response: httpx.Response, login: Login) -> HimaliaError:
    """The error that an answer which is no success stands for."""
    request_id = response.headers.get("X-Request-ID", "")
    if response.is_redirect:
        where = response.headers.get("Location", "")
        return Invalid(
            f"{login.url} is not where Himalia's API is (it points to {where}). Set HIMALIA_URL, or log in again with --url.",
            status=response.status_code,
        )
    problem = {}
    if "json" in response.headers.get("Content-Type", ""):
        try:
            problem = response.json()
        except ValueError:
            problem = {}
    error = from_problem(response.status_code, problem if isinstance(problem, dict) else {}, request_id)
    if isinstance(error, NotLoggedIn):
        error = NotLoggedIn(stale_token(login), status=401, code=error.code, request_id=error.request_id)
    retry_after = response.headers.get("Retry-After", "")
    if isinstance(error, Unavailable) and retry_after.isdigit():
        error.extra["retry_after"] = retry_after
    return error


def stale_token(login: Login) -> str:
    if login.source == "workspace":
        return "Himalia does not know this workspace's token any more. Stop the workspace and start it again."
    if login.source in ("argument", "HIMALIA_TOKEN"):
        return "Himalia does not know this token: it may be revoked or expired."
    return f"Himalia does not know the stored token any more. {NO_LOGIN.split('. ', 1)[1]}"


def _lines(chunks: Iterator[bytes]) -> Iterator[str]:
    """Lines that end with a line feed. (httpx also splits at what Unicode calls a line's end, which may stand inside a log's text.)"""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.removesuffix(b"\r").decode(errors="replace")


def parse_events(lines: Iterator[str]) -> Iterator[ServerEvent]:
    """Server-sent events from their lines; comments keep the line alive and say nothing."""
    event, data, last = "message", [], ""
    for line in lines:
        if not line:
            if data:
                yield ServerEvent(event, "\n".join(data), last)
            event, data = "message", []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            event = value
        elif name == "data":
            data.append(value)
        elif name == "id":
            last = value
