"""The control plane in one process: the real application over SQLite in a file, a scripted engine and a hub in memory.

`client_for("ada")` is a logged-in client of the API, `parts` what stands behind it, `hub` and `parts.engine` the two scripts.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
import structlog
import yaml
from fastapi import FastAPI

from himalia_services.app import API, create_app, create_internal_app
from himalia_services.engines.fake import FakeEngine
from himalia_services.hub import Hub
from himalia_services.model import catalog
from himalia_services.parts import Parts
from himalia_services.settings import Settings
from himalia_services.snapshot.registry import Registry
from himalia_services.store import migrate
from himalia_services.store.db import Database
from himalia_services.store.files import Files
from service.fakehub import SERVICE_TOKEN, FakeHub
from service.serving import serving

INSTANCE = "0f1e2d3c-4b5a-4968-8776-655443322110"
INTERNAL_TOKEN = "internal-token-of-the-tests"
SECRETS = {
    "service-token": SERVICE_TOKEN,
    "internal-token": INTERNAL_TOKEN,
    "registry-password": "registry-password-of-the-tests",
    "seal": base64.urlsafe_b64encode(b"seal-of-the-tests".ljust(32)).decode(),
}

#: As `Client` says: name, scopes, admin, groups → a client of the API.
ClientFor = Callable[..., httpx.AsyncClient]


@dataclass
class Clock:
    """Time that stands still unless told."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def make_home(path: Path) -> Path:
    """A `HIMALIA_HOME` as the launcher makes it, as far as the control plane reads it."""
    secrets = path / "secrets"
    secrets.mkdir(parents=True)
    (path / "control").mkdir()
    (path / "run" / "workspaces").mkdir(parents=True)
    (path / "run" / "workloads").mkdir()
    (path / "images").mkdir()
    (path / "instance").write_text(INSTANCE + "\n")
    for name, value in SECRETS.items():
        (secrets / name).write_text(value + "\n")
        (secrets / name).chmod(0o600)
    return path


@pytest.fixture(scope="session", autouse=True)
def plain_log() -> None:
    """Tracebacks as they are: drawn in colours with every variable, one takes seconds."""
    processors = (
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.format_exc_info,
    )
    structlog.configure(
        processors=[*processors, structlog.processors.JSONRenderer(default=str)], cache_logger_on_first_use=False
    )


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=make_home(tmp_path / "home"), port=18000, domain="himalia.localhost", gateway="127.0.0.1")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest_asyncio.fixture
async def hub() -> AsyncIterator[FakeHub]:
    hub = FakeHub()
    await hub.start()
    yield hub
    await hub.stop()


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the newest schema and nothing in it, made once."""
    path = tmp_path_factory.mktemp("database") / "empty.sqlite"
    asyncio.run(migrate.upgrade(f"sqlite+aiosqlite:///{path}"))
    return path


@pytest_asyncio.fixture
async def db(settings: Settings, migrated: Path) -> AsyncIterator[Database]:
    shutil.copyfile(migrated, settings.control / "himalia.sqlite")
    db = Database(settings.database)
    yield db
    await db.aclose()


@pytest_asyncio.fixture
async def parts(settings: Settings, db: Database, hub: FakeHub, clock: Clock) -> AsyncIterator[Parts]:
    registry = Registry(settings.registry_url)
    real = Hub(
        f"{hub.url}/hub/api",
        SERVICE_TOKEN,
        public_url=settings.public_url,
        callback_url=f"{settings.service_url}/oauth_callback",
        clock=clock,
    )
    yield Parts(
        settings=settings,
        db=db,
        hub=real,
        engine=FakeEngine(),
        files=Files(settings.files),
        registry=registry,
        catalog=catalog.parse(yaml.safe_load(settings.catalog.read_text())),
    )
    await registry.aclose()
    await real.aclose()


@pytest.fixture
def app(parts: Parts) -> FastAPI:
    return create_app(parts)


@pytest_asyncio.fixture
async def client_for(app: FastAPI, settings: Settings, hub: FakeHub) -> AsyncIterator[ClientFor]:
    """A client per call, with a token of its own: `scopes` as asked for at the hub, None for all a person has."""
    async with contextlib.AsyncExitStack() as stack:

        def make(
            name: str, *, scopes: Iterable[str] | None = None, admin: bool = False, groups: Iterable[str] = ()
        ) -> httpx.AsyncClient:
            hub.person(name, admin=admin, groups=groups)
            client = httpx.AsyncClient(
                transport=httpx.ASGITransport(app),
                base_url=settings.service_origin + API,
                headers={"Authorization": f"Bearer {hub.token(name, scopes)}"},
            )
            stack.push_async_callback(client.aclose)
            return client

        yield make


@pytest_asyncio.fixture
async def visitor(app: FastAPI, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """Nobody in particular; paths are those of the service's origin."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=settings.service_origin) as client:
        yield client


@pytest_asyncio.fixture
async def internal(parts: Parts) -> AsyncIterator[httpx.AsyncClient]:
    """The hub, as the internal API sees it."""
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(create_internal_app(parts)),
        base_url="http://internal",
        headers={"Authorization": f"Bearer {INTERNAL_TOKEN}"},
    ) as client:
        yield client


@pytest_asyncio.fixture
async def live_for(app: FastAPI, hub: FakeHub) -> AsyncIterator[ClientFor]:
    """As `client_for`, over a real port: for answers that are read as they come."""
    async with serving(app) as url, contextlib.AsyncExitStack() as stack:

        def make(
            name: str, *, scopes: Iterable[str] | None = None, admin: bool = False, groups: Iterable[str] = ()
        ) -> httpx.AsyncClient:
            hub.person(name, admin=admin, groups=groups)
            client = httpx.AsyncClient(
                base_url=url + API, headers={"Authorization": f"Bearer {hub.token(name, scopes)}"}, timeout=10
            )
            stack.push_async_callback(client.aclose)
            return client

        try:
            yield make
        finally:
            app.state.closing.set()


@pytest_asyncio.fixture
async def reconciling(parts: Parts) -> AsyncIterator[None]:
    """The reconcilers run while the test does."""
    from himalia_services.reconcile import loop

    task = asyncio.create_task(loop.run(parts))
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
