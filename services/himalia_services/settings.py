"""What an installation is told, and every path and address that follows from it. Read once, at a process's start, and handed down."""

from __future__ import annotations

import stat
import uuid
from functools import cached_property
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

SERVICE = "himalia"
DEFAULT_DOMAIN = "himalia.localhost"
#: Below this path of the service's origin is everything of ours.
SERVICE_PATH = f"/services/{SERVICE}"
#: Who the control plane is to the platform's own registry.
REGISTRY_USER = "himalia"


class SettingsTrouble(Exception):
    """Something in `HIMALIA_HOME` or the environment is not as it must be, as a sentence."""


def _catalog() -> Path:
    return Path(__file__).resolve().parents[2] / "hub_config" / "catalog.yaml"


class Settings(BaseSettings):
    """`HIMALIA_*` and what derives from it. A variable that is set to nothing counts as not set."""

    model_config = SettingsConfigDict(env_prefix="HIMALIA_", frozen=True, extra="ignore", env_ignore_empty=True)

    home: Path = Path("~/.himalia")
    port: int = Field(default=8000, ge=1024, le=65000)
    domain: str = DEFAULT_DOMAIN
    catalog: Path = Field(default_factory=_catalog)
    #: The address containers reach this machine at: the gateway of our Docker network, which the launcher knows.
    gateway: str = "127.0.0.1"
    #: Empty: SQLite below `home`.
    database_url: str = ""
    #: Jobs that run at the same time; the others wait in the order they came.
    job_slots: int = Field(default=1, ge=1)
    routing: Literal["subdomain", "path"] = "subdomain"

    @field_validator("home", "catalog")
    @classmethod
    def _whole(cls, path: Path) -> Path:
        return path.expanduser().absolute()

    # Names

    @cached_property
    def instance(self) -> str:
        """The uuid of this installation."""
        path = self.home / "instance"
        try:
            return str(uuid.UUID(path.read_text().strip()))
        except FileNotFoundError:
            raise SettingsTrouble(f"{path} is not there: `himalia up` makes an installation.") from None
        except ValueError:
            raise SettingsTrouble(f"{path} does not hold a uuid; put back the one of this installation.") from None

    @property
    def prefix(self) -> str:
        """What every name of ours on the engine begins with."""
        return f"himalia-{self.instance[:8]}"

    @property
    def network(self) -> str:
        return self.prefix

    # Addresses

    @property
    def public_url(self) -> str:
        return f"http://{self.domain}:{self.port}"

    @property
    def service_origin(self) -> str:
        """The origin browsers see us at."""
        return self.public_url if self.routing == "path" else f"http://{SERVICE}--service.{self.domain}:{self.port}"

    @property
    def service_url(self) -> str:
        return self.service_origin + SERVICE_PATH

    @property
    def internal_url(self) -> str:
        """`HIMALIA_URL` inside containers."""
        return f"http://{self.gateway}:{self.control_port}{SERVICE_PATH}"

    @property
    def control_port(self) -> int:
        return self.port + 82

    @property
    def hub_api_url(self) -> str:
        return f"http://{self.gateway}:{self.port + 81}/hub/api"

    @property
    def registry_host(self) -> str:
        return f"127.0.0.1:{self.port + 50}"

    @property
    def registry_url(self) -> str:
        return f"http://{self.registry_host}"

    @property
    def secure(self) -> bool:
        """Whether browsers come by https."""
        return urlsplit(self.public_url).scheme == "https"

    # Paths

    @property
    def run(self) -> Path:
        return self.home / "run"

    @property
    def internal_socket(self) -> Path:
        return self.run / "internal.sock"

    @property
    def workspaces_run(self) -> Path:
        return self.run / "workspaces"

    @property
    def workloads_run(self) -> Path:
        return self.run / "workloads"

    @property
    def control(self) -> Path:
        return self.home / "control"

    @property
    def files(self) -> Path:
        return self.control / "files"

    @property
    def saves(self) -> Path:
        return self.home / "saves"

    @property
    def images(self) -> Path:
        return self.home / "images"

    @property
    def built(self) -> Path:
        return self.images / "built.json"

    @property
    def progress(self) -> Path:
        return self.images / "progress.json"

    @property
    def database(self) -> str:
        return self.database_url or f"sqlite+aiosqlite:///{self.control / 'himalia.sqlite'}"

    def secret(self, name: str) -> str:
        """The content of a 0600 file of `secrets/`; one that others may read is refused."""
        path = self.home / "secrets" / name
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
            text = path.read_text().strip()
        except FileNotFoundError:
            raise SettingsTrouble(f"{path} is not there: `himalia up` makes the secrets of an installation.") from None
        if mode & 0o077:
            raise SettingsTrouble(f"{path} can be read by others: `chmod 600 {path}`, and give it a new content.")
        return text
