"""The platform's own registry: a container of our image, on loopback, with one account."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Any

import bcrypt
from docker.errors import APIError, NotFound
from docker.types import LogConfig, Mount

from himalia_services.local.engine import Engine
from himalia_services.local.home import Home, Trouble

USER = "himalia"
ROUNDS = 5  # the password is 32 random bytes, asked at every request: a slow hash protects nothing here
DATA, AUTH = "/var/lib/registry", "/etc/himalia-registry"


def address(home: Home) -> str:
    return f"127.0.0.1:{home.port + 50}"


def name(home: Home) -> str:
    return f"himalia-{home.short}-registry"


def settings() -> dict[str, str]:
    """The registry's configuration as its environment; the only secret is in the mounted htpasswd, hashed."""
    return {
        "REGISTRY_HTTP_ADDR": "0.0.0.0:5000",
        "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": DATA,
        "REGISTRY_STORAGE_DELETE_ENABLED": "true",
        "REGISTRY_AUTH": "htpasswd",
        "REGISTRY_AUTH_HTPASSWD_REALM": "himalia",
        "REGISTRY_AUTH_HTPASSWD_PATH": f"{AUTH}/htpasswd",
        "REGISTRY_LOG_LEVEL": "warn",
    }


def need(engine: Engine, home: Home) -> None:
    """The registry runs from the image that was built last; absent, stopped and outdated are put right."""
    image = _image(home)
    _write_account(home)
    existing = _container(engine, home)
    if existing is not None:
        if existing.attrs["Image"] == image and existing.labels.get("himalia.port") == str(home.port):
            if existing.status != "running":
                existing.start()
            return
        existing.remove(force=True)
    try:
        engine.client.containers.run(image, **_body(home))
    except APIError as error:
        raise Trouble(f"The registry did not start: {error.explanation}") from error


def answers(home: Home) -> bool:
    """Whether it answers; asking for credentials is an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", home.port + 50, timeout=2)
    try:
        connection.request("GET", "/v2/")
        return connection.getresponse().status in (200, 401)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def stop(engine: Engine, home: Home) -> bool:
    """Whether there was one that ran."""
    existing = _container(engine, home)
    if existing is None or existing.status != "running":
        return False
    existing.stop(timeout=10)
    return True


def _container(engine: Engine, home: Home) -> Any | None:
    try:
        return engine.client.containers.get(name(home))
    except NotFound:
        return None


def _image(home: Home) -> str:
    return json.loads((home.path / "images" / "built.json").read_text())["registry"]["image_id"]


def _body(home: Home) -> dict[str, Any]:
    return {
        "name": name(home),
        "detach": True,
        "environment": settings(),
        "ports": {"5000/tcp": ("127.0.0.1", home.port + 50)},
        "mounts": [
            Mount(DATA, str(home.path / "registry" / "data"), type="bind"),
            Mount(AUTH, str(home.path / "registry" / "auth"), type="bind", read_only=True),
        ],
        # it belongs to the platform, not to a person: the engine brings it back after a restart of its own
        "restart_policy": {"Name": "unless-stopped"},
        "log_config": LogConfig(type=LogConfig.types.JSON, config={"max-size": "10m", "max-file": "2"}),
        "cap_drop": ["ALL"],
        "cap_add": ["DAC_OVERRIDE"],  # its data belong to whoever runs Himalia
        "security_opt": ["no-new-privileges"],
        "labels": {"himalia.instance": home.instance, "himalia.kind": "registry", "himalia.port": str(home.port)},
    }


def _write_account(home: Home) -> None:
    folder = home.path / "registry"
    for part in ("data", "auth"):
        (folder / part).mkdir(mode=0o700, parents=True, exist_ok=True)
    htpasswd: Path = folder / "auth" / "htpasswd"
    password = home.secret("registry-password").encode()
    if htpasswd.exists() and bcrypt.checkpw(password, htpasswd.read_text().strip().partition(":")[2].encode()):
        return
    new = htpasswd.with_suffix(".new")
    new.write_text(f"{USER}:{bcrypt.hashpw(password, bcrypt.gensalt(ROUNDS)).decode()}\n")
    new.chmod(0o600)
    new.replace(htpasswd)
