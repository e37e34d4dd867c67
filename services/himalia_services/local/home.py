"""The folder of an installation: where it is, what must be in it, and what its processes are told of it."""

from __future__ import annotations

import os
import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import himalia_services
from himalia_spawner.people import Passwords
from himalia_spawner.place import DEFAULT_DOMAIN, Place

#: Each is 32 random bytes in hex; the hub wants its cookie secret in exactly this form.
TOKENS = (
    "hub-cookie",
    "proxy-token",
    "service-token",
    "operator-token",
    "supervisor-token",
    "internal-token",
    "registry-password",
)
FOLDERS = ("secrets", "hub", "control", "registry", "run", "images", "logs", "node")
#: What a process of ours inherits: nothing that configures another Python, hub or Node.
KEPT = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "TZ",
    "TMPDIR",
    "DOCKER_HOST",
    "DOCKER_CERT_PATH",
    "DOCKER_TLS_VERIFY",
    "XDG_RUNTIME_DIR",
)
KEPT_NETWORK = (
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
)
KEPT_PREFIXES = ("HIMALIA_", "PIP_", "npm_config_", "NPM_CONFIG_", "NODE_EXTRA_CA_CERTS", "DEBIAN_", "APT_")


class Trouble(Exception):
    """Something a person has to do first, as a sentence."""


@dataclass(frozen=True)
class Home:
    """One installation on this machine. Reading it changes nothing; `prepare` makes what is missing."""

    path: Path
    port: int
    domain: str
    root: Path

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Home:
        port = environ.get("HIMALIA_PORT") or "8000"
        if not port.isdecimal() or not 1024 <= int(port) <= 65000:
            raise Trouble(
                f"HIMALIA_PORT is {port!r}; it takes a number from 1024 to 65000 (the ports up to 82 above it are used as well)."
            )
        return cls(
            path=Path(environ.get("HIMALIA_HOME") or "~/.himalia").expanduser().absolute(),
            port=int(port),
            domain=environ.get("HIMALIA_DOMAIN") or DEFAULT_DOMAIN,
            root=Path(himalia_services.__file__).parents[2],
        )

    # --- what is in it ---

    @property
    def made(self) -> bool:
        return (self.path / "instance").exists()

    @property
    def instance(self) -> str:
        return (self.path / "instance").read_text().strip()

    @property
    def short(self) -> str:
        """What the names of our containers, networks and volumes begin with, after `himalia-`."""
        return self.instance[:8]

    @property
    def network(self) -> str:
        return f"himalia-{self.short}"

    @property
    def run(self) -> Path:
        return self.path / "run"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def hub_config(self) -> Path:
        return self.root / "hub_config" / "jupyterhub_config.py"

    @property
    def builder(self) -> Path:
        return self.root / "images" / "build.py"

    @property
    def gateway(self) -> str:
        """The address containers reach this machine at; known from the first `himalia up` on."""
        try:
            return (self.run / "gateway").read_text().strip()
        except FileNotFoundError:
            raise Trouble("Himalia has not been started here yet. Start it with `himalia up`.") from None

    @property
    def place(self) -> Place:
        return Place(home=self.path, port=self.port, domain=self.domain, gateway=self.gateway)

    @property
    def passwords(self) -> Passwords:
        return Passwords(self.path / "passwords.json")

    def secret(self, name: str) -> str:
        return (self.path / "secrets" / name).read_text().strip()

    # --- making it ---

    def prepare(self) -> bool:
        """Make folders, the instance id and the secrets that are missing. True when this is a new installation."""
        new = not self.made
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.chmod(0o700)
        for name in FOLDERS:
            (self.path / name).mkdir(mode=0o700, exist_ok=True)
            (self.path / name).chmod(0o700)
        for name in TOKENS:
            _once(self.path / "secrets" / name, secrets.token_hex(32))
        _once(self.path / "secrets" / "seal", _fernet_key())
        _once(self.path / "instance", str(uuid.uuid4()))
        return new

    def environment(self, *, network: bool = False) -> dict[str, str]:
        """The environment of a process of ours. `network`: also what reaching out takes (proxies, certificates)."""
        names = KEPT + (KEPT_NETWORK if network else ())
        kept = {
            k: v
            for k, v in os.environ.items()
            if k in names or (k.startswith(KEPT_PREFIXES) and (network or k.startswith("HIMALIA_")))
        }
        ours = {"HIMALIA_HOME": str(self.path), "HIMALIA_PORT": str(self.port), "HIMALIA_DOMAIN": self.domain}
        return kept | ours | {"PYTHONUNBUFFERED": "1"}


def _once(path: Path, text: str) -> None:
    """Write a 0600 file unless it is there. Linked into place whole, so that of two starts at once one wins."""
    if path.exists():
        path.chmod(0o600)
        return
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text + "\n")
    try:
        os.link(new, path)
    except FileExistsError:
        pass
    finally:
        new.unlink()


def _fernet_key() -> str:
    from cryptography.fernet import Fernet

    return Fernet.generate_key().decode()
