"""Who we are and where Himalia is: addresses, tokens, the stored login.

In this order: what the caller says, `HIMALIA_TOKEN`, the workspace we are in, the login that `himalia login` stored.
A job has no token and must not act with a login that happens to lie in its owner's home, so there the stored one is ignored.
"""

from __future__ import annotations

import ipaddress
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from himalia import scopes
from himalia.errors import NotLoggedIn, Unavailable

SERVICE_PATH = "/services/himalia"
SERVICE_LABEL = "himalia--service"
DEFAULT_URL = f"http://{SERVICE_LABEL}.himalia.localhost:8000{SERVICE_PATH}"

NO_LOGIN = "You are not logged in. Run: himalia login (programs: set HIMALIA_TOKEN)."
NO_JOB_TOKEN = "This job has no token, so it cannot call Himalia. Give it what it needs by files, arguments or --env when you submit it."

#: What a login outside a workspace needs; less than a person may do on the hub, which is what a token without scopes gets.
LOGIN_SCOPES = (*(f"{scope}!user" for scope in scopes.PERSON), "access:services!service=himalia", "access:servers!user")


@dataclass(frozen=True)
class Login:
    """An address of the control plane and a token for it. `source` says where the token is from."""

    url: str
    token: str
    source: str
    user: str = ""

    def __repr__(self) -> str:
        return f"Login(url={self.url!r}, user={self.user!r}, source={self.source!r})"


def inside_workspace(env: Mapping[str, str]) -> bool:
    return bool(env.get("HIMALIA_WORKSPACE"))


def inside_job(env: Mapping[str, str]) -> bool:
    return bool(env.get("HIMALIA_JOB"))


def service_url(address: str, env: Mapping[str, str] | None = None) -> str:
    """The control plane's address for what people call the platform's: its own one, or the hub's."""
    env = os.environ if env is None else env
    parts = urlsplit(address if "://" in address else f"http://{address}")
    if not parts.hostname:
        raise NotLoggedIn(f"{address!r} is no address. It looks like http://himalia.localhost:8000.")
    path = parts.path.rstrip("/")
    if SERVICE_PATH in path:
        return f"{parts.scheme}://{parts.netloc}{path[: path.index(SERVICE_PATH)]}{SERVICE_PATH}"
    prefix = path.split("/hub", 1)[0]
    one_origin = env.get("HIMALIA_ROUTING") == "path" or _numeric(parts.hostname) or parts.hostname == "localhost"
    host = (
        parts.netloc
        if one_origin or parts.netloc.startswith(f"{SERVICE_LABEL}.")
        else f"{SERVICE_LABEL}.{parts.netloc}"
    )
    return f"{parts.scheme}://{host}{prefix}{SERVICE_PATH}"


def hub_url(service: str) -> str:
    """The hub's public address, from the control plane's public one."""
    parts = urlsplit(service)
    return f"{parts.scheme}://{parts.netloc.removeprefix(f'{SERVICE_LABEL}.')}{parts.path.split(SERVICE_PATH, 1)[0]}"


def _numeric(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def path_of_login(env: Mapping[str, str] | None = None) -> Path:
    env = os.environ if env is None else env
    config = env.get("XDG_CONFIG_HOME") or os.path.join(env.get("HOME") or os.path.expanduser("~"), ".config")
    return Path(config) / "himalia" / "login.json"


def stored(env: Mapping[str, str] | None = None) -> Login | None:
    """The login that `store` kept, if there is one that can be read."""
    path = path_of_login(env)
    try:
        data = json.loads(path.read_text())
        return Login(url=str(data["url"]), token=str(data["token"]), user=str(data.get("user", "")), source=str(path))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def store(login: Login, env: Mapping[str, str] | None = None) -> Path:
    """Keep a login for later, readable by its owner alone."""
    path = path_of_login(env)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # mkstemp makes the file 0600 from the first moment; the rename keeps a half-written one out of sight.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".login-")
    with os.fdopen(handle, "w") as file:
        json.dump({"url": login.url, "user": login.user, "token": login.token}, file)
    os.replace(temporary, path)
    return path


def forget(env: Mapping[str, str] | None = None) -> bool:
    try:
        path_of_login(env).unlink()
    except FileNotFoundError:
        return False
    return True


def find(url: str | None = None, token: str | None = None, env: Mapping[str, str] | None = None) -> Login:
    """The login to use, or NotLoggedIn with a sentence that says what to do."""
    env = os.environ if env is None else env
    kept = None if inside_job(env) else stored(env)
    address = service_url(url or env.get("HIMALIA_URL") or (kept.url if kept else DEFAULT_URL), env)
    if token:
        return Login(address, token, "argument")
    if env.get("HIMALIA_TOKEN"):
        return Login(address, env["HIMALIA_TOKEN"], "HIMALIA_TOKEN")
    if inside_job(env):
        raise NotLoggedIn(NO_JOB_TOKEN, code="job_without_token")
    if env.get("JUPYTERHUB_API_TOKEN") and env.get("HIMALIA_URL") and address == service_url(env["HIMALIA_URL"], env):
        return Login(address, env["JUPYTERHUB_API_TOKEN"], "workspace", env.get("JUPYTERHUB_USER", ""))
    if kept and kept.url == address:
        return Login(address, kept.token, kept.source, kept.user)
    raise NotLoggedIn(NO_LOGIN, code="not_logged_in")


def sign_in(address: str, user: str, password: str, *, days: int = 30) -> Login:
    """A login by name and password: the hub makes a token that may do what `LOGIN_SCOPES` says and no more."""
    import socket
    from urllib.parse import quote

    import httpx

    from himalia._connection import make_http

    service = service_url(address)
    hub = hub_url(service)
    body = {
        "auth": {"username": user, "password": password},
        "scopes": list(LOGIN_SCOPES),
        "expires_in": days * 86400,
        "note": f"himalia login on {socket.gethostname()}",
    }
    with make_http(hub, direct=False) as http:
        try:
            response = http.post(f"{hub}/hub/api/users/{quote(user, safe='')}/tokens", json=body)
        except httpx.TransportError as error:
            raise Unavailable(f"Himalia does not answer at {hub} ({error}). Is it up? Is --url right?") from error
    if response.status_code in (401, 403):
        raise NotLoggedIn(
            "The hub knows no such name and password.", status=response.status_code, code="wrong_password"
        )
    if response.status_code not in (200, 201):
        said = response.json().get("message", "") if "json" in response.headers.get("Content-Type", "") else ""
        raise Unavailable(
            f"The hub at {hub} made no token: it answered {response.status_code}. {said}".rstrip(),
            status=response.status_code,
            code="no_token",
        )
    return Login(service, response.json()["token"], "password", user)
