"""The control plane as a process: `python -m himalia_services`, configured by `HIMALIA_*` and the files of `HIMALIA_HOME`."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import structlog
import uvicorn
import uvloop
import yaml
from pydantic import ValidationError
from starlette.types import ASGIApp

from himalia_services import logs
from himalia_services.api.problem import Starting
from himalia_services.app import create_app, create_internal_app
from himalia_services.engines.docker.connect import connect
from himalia_services.hub import Hub
from himalia_services.model import catalog
from himalia_services.parts import Parts
from himalia_services.reconcile import loop
from himalia_services.settings import REGISTRY_USER, Settings, SettingsTrouble
from himalia_services.snapshot.registry import Registry
from himalia_services.store import migrate
from himalia_services.store.db import Database
from himalia_services.store.files import Files

log = structlog.get_logger("himalia_services")

SECRETS = ("service-token", "internal-token", "registry-password", "seal")
#: Answers that are still being given at the end of the process have this long.
GRACE_SECONDS = 5
#: Longer than the proxy keeps an idle connection, so that it never uses one that we are about to close.
KEEP_ALIVE_SECONDS = 75


class Refusal(Exception):
    """Why this process does not start, as a sentence."""


def main() -> int:
    try:
        settings = Settings()
        logs.configure([settings.secret(name) for name in SECRETS])
        with lock(settings):
            uvloop.run(serve(settings))
    except ValidationError as error:
        return _refuse("; ".join(f"HIMALIA_{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors()))
    except (Refusal, SettingsTrouble, catalog.CatalogError, migrate.NewerSchema) as error:
        return _refuse(str(error))
    return 0


def _refuse(sentence: str) -> int:
    print(f"The control plane does not start: {sentence}", file=sys.stderr, flush=True)
    return 1


@contextlib.contextmanager
def lock(settings: Settings) -> Iterator[None]:
    """Two control planes on one database would do everything twice; the file's lock ends with the process, however it ends."""
    settings.control.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(settings.control / "lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise Refusal(
                f"another one (pid {file.read().strip() or 'unknown'}) works on {settings.control}."
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


async def serve(settings: Settings) -> None:
    """Listen at once, then get ready, then work until TERM."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    public, internal = Starting(), Starting()
    servers = [
        Server(public, _tcp(settings.gateway, settings.control_port)),
        Server(internal, _unix(settings.internal_socket)),
    ]
    listening = [asyncio.create_task(server.serve()) for server in servers]
    try:
        await migrate.upgrade(settings.database)
        async with contextlib.AsyncExitStack() as stack:
            parts = make(settings)
            stack.push_async_callback(parts.aclose)
            apps = create_app(parts), create_internal_app(parts)
            public.app, internal.app = apps
            log.info("ready", address=f"{settings.gateway}:{settings.control_port}", instance=settings.instance)
            try:
                await _work(parts, stop)
            finally:
                for app in apps:
                    app.state.closing.set()
                await _end(servers, listening)
    finally:
        await _end(servers, listening)
        settings.internal_socket.unlink(missing_ok=True)
    log.info("ended")


def make(settings: Settings) -> Parts:
    with open(settings.catalog) as file:
        offered = catalog.parse(yaml.safe_load(file))
    registry = Registry(settings.registry_url, (REGISTRY_USER, settings.secret("registry-password")))
    return Parts(
        settings=settings,
        db=Database(settings.database),
        hub=Hub.of(settings),
        engine=connect(settings, registry),
        files=Files(settings.files),
        registry=registry,
        catalog=offered,
    )


async def _work(parts: Parts, stop: asyncio.Event) -> None:
    """Reconcile until told to stop. Reconcilers that end by themselves end the process: its supervisor starts a fresh one."""
    reconcilers = asyncio.create_task(loop.run(parts), name="reconcile")
    stopped = asyncio.create_task(stop.wait(), name="stop")
    await asyncio.wait({reconcilers, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if reconcilers.done():
        await reconcilers
        raise Refusal("its reconcilers ended.")
    log.info("ending")
    reconcilers.cancel()
    await asyncio.gather(reconcilers, return_exceptions=True)


async def _end(servers: list[Server], listening: list[asyncio.Task[None]]) -> None:
    for server in servers:
        server.should_exit = True
    await asyncio.gather(*listening)


class Server(uvicorn.Server):
    """One listener of ours; signals are the process's business, since there are two."""

    def __init__(self, app: ASGIApp, listener: socket.socket) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="none",
                http="httptools",
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )
        self._listener = listener

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        await super().serve(sockets or [self._listener])

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def _tcp(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), backlog=1024)
    except OSError as error:
        raise Refusal(f"it cannot listen on {host}:{port} ({error.strerror}).") from error


def _unix(path: Path) -> socket.socket:
    """Open to our own user only. One left by a killed process is in nobody's use: we hold the lock."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError as error:
        raise Refusal(f"it cannot listen on {path} ({error}).") from error
    finally:
        os.umask(before)
    listener.listen(128)
    return listener


if __name__ == "__main__":
    raise SystemExit(main())
