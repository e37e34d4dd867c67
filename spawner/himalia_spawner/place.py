"""Where this installation is: the few paths and addresses the hub needs, read from the environment its supervisor sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DEFAULT_DOMAIN = "himalia.localhost"


@dataclass(frozen=True)
class Place:
    """The home folder, the public name and port, and the address containers reach this machine at."""

    home: Path
    port: int
    domain: str
    gateway: str

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Place:
        """Read `HIMALIA_*`; the gateway is known only once the Docker network exists, so it has no default."""
        gateway = environ.get("HIMALIA_GATEWAY", "")
        if not gateway:
            raise ValueError(
                "HIMALIA_GATEWAY is not set: start the hub with `himalia up`, which knows the Docker network."
            )
        return cls(
            home=Path(environ.get("HIMALIA_HOME") or "~/.himalia").expanduser(),
            port=int(environ.get("HIMALIA_PORT") or 8000),
            domain=environ.get("HIMALIA_DOMAIN") or DEFAULT_DOMAIN,
            gateway=gateway,
        )

    @property
    def public(self) -> bool:
        """Whether other machines may come in: only when a domain was given."""
        return self.domain != DEFAULT_DOMAIN

    @property
    def url(self) -> str:
        return f"http://{self.domain}:{self.port}"

    @property
    def bind_url(self) -> str:
        return f"http://{'0.0.0.0' if self.public else '127.0.0.1'}:{self.port}"

    @property
    def proxy_api(self) -> str:
        return f"http://127.0.0.1:{self.port + 1}"

    @property
    def hub_port(self) -> int:
        return self.port + 81

    @property
    def control_url(self) -> str:
        return f"http://{self.gateway}:{self.port + 82}"

    @property
    def callback_url(self) -> str:
        return f"http://himalia--service.{self.domain}:{self.port}/services/himalia/oauth_callback"

    @property
    def registry(self) -> str:
        return f"127.0.0.1:{self.port + 50}"

    @property
    def internal_socket(self) -> Path:
        return self.home / "run" / "internal.sock"

    @property
    def passwords(self) -> Path:
        return self.home / "passwords.json"

    @property
    def admins(self) -> Path:
        return self.home / "admins.json"

    @property
    def trash(self) -> Path:
        return self.home / "trash.json"

    def secret(self, name: str) -> str:
        """The content of a 0600 file of `secrets/`, read when it is needed and kept nowhere else."""
        return (self.home / "secrets" / name).read_text().strip()
