"""What the control plane is made of, put together once at its start and handed to routes and reconcilers."""

from __future__ import annotations

from dataclasses import dataclass

from himalia_services.engines import Engine
from himalia_services.hub import Hub
from himalia_services.model.catalog import Catalog
from himalia_services.settings import Settings
from himalia_services.snapshot.registry import Registry
from himalia_services.store.db import Database
from himalia_services.store.files import Files


@dataclass
class Parts:
    """One of each. `aclose` in reverse order of their making."""

    settings: Settings
    db: Database
    hub: Hub
    engine: Engine
    files: Files
    registry: Registry
    catalog: Catalog

    async def aclose(self) -> None:
        await self.engine.aclose()
        await self.registry.aclose()
        await self.hub.aclose()
        await self.db.aclose()
