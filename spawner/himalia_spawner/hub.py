"""All settings of the hub. `hub_config/jupyterhub_config.py` calls `configure(c)` and adds nothing an operator did not choose."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from himalia import scopes
from himalia_spawner.docker import HimaliaDockerSpawner
from himalia_spawner.people import HimaliaAuthenticator, admins
from himalia_spawner.place import Place

SERVICE = "himalia"
ENTER = f"access:services!service={SERVICE}"
#: What a person may do through us, and so what their server's tokens and their login at the service may carry at most.
OURS = [f"{scope}!user" for scope in scopes.PERSON]

#: The service's own token: background work. Never `tokens`, `groups` or `admin:*` (each of them amounts to being an admin).
SERVICE_SCOPES = [
    "list:users",
    "read:users",
    "read:servers",
    "start:servers",
    "delete:servers",
    "list:groups",
    "read:groups",
    "read:hub",
]
#: `himalia users` and `himalia groups` on this machine.
OPERATOR_SCOPES = [
    "admin:users",
    "admin:groups",
    "list:users",
    "read:users",
    "read:servers",
    "delete:servers",
    "list:groups",
    "read:groups",
]
#: Gives a restarted proxy its routes back, and does nothing else.
SUPERVISOR_SCOPES = ["proxy"]

#: A first start waits behind the build of its image.
START_TIMEOUT = 3600
HTTP_TIMEOUT = 120


def configure(c: Any, *, folder: Path, environ: Mapping[str, str] | None = None) -> None:
    """Configure a hub from `HIMALIA_*`. `folder` is hub_config, with the templates."""
    place = Place.read(os.environ if environ is None else environ)
    _addresses(c, place)
    _processes(c, place)
    _pages(c, place, folder)
    _rights(c, place)
    _spawning(c)


def _addresses(c: Any, place: Place) -> None:
    c.JupyterHub.bind_url = place.bind_url
    c.JupyterHub.subdomain_host = place.url  # one origin per person
    c.JupyterHub.hub_ip = place.gateway
    c.JupyterHub.hub_connect_ip = place.gateway
    c.JupyterHub.hub_port = place.hub_port


def _processes(c: Any, place: Place) -> None:
    """Hub, proxy and control plane are none the child of another: a restart of the hub ends nothing."""
    c.JupyterHub.cleanup_servers = False
    c.JupyterHub.cleanup_proxy = False
    c.ConfigurableHTTPProxy.should_start = False
    c.ConfigurableHTTPProxy.api_url = place.proxy_api
    c.ConfigurableHTTPProxy.auth_token = place.secret("proxy-token")
    c.Service.timeout = 2  # with the service away the hub waits this long before it makes routes
    c.JupyterHub.last_activity_interval = 30  # also how often routes are checked
    c.JupyterHub.db_url = f"sqlite:///{place.home / 'hub' / 'jupyterhub.sqlite'}"
    c.JupyterHub.cookie_secret_file = str(place.home / "secrets" / "hub-cookie")
    c.JupyterHub.authenticate_prometheus = True


def _pages(c: Any, place: Place, folder: Path) -> None:
    c.JupyterHub.template_paths = [str(folder / "templates")]
    c.JupyterHub.template_vars = {"himalia_url": place.url, "himalia_public": place.public}
    c.JupyterHub.default_url = "/hub/home"
    c.JupyterHub.allow_named_servers = True
    c.JupyterHub.authenticator_class = HimaliaAuthenticator
    c.Authenticator.admin_users = admins(place.admins)
    c.JupyterHub.token_expires_in_max_seconds = 90 * 86400


def _rights(c: Any, place: Place) -> None:
    c.JupyterHub.custom_scopes = scopes.SCOPES
    c.JupyterHub.extra_user_scopes = {ENTER, *OURS}
    c.JupyterHub.services = [
        {
            "name": SERVICE,
            "url": place.control_url,
            "api_token": place.secret("service-token"),
            "oauth_no_confirm": True,
            "oauth_redirect_uri": place.callback_url,
            "oauth_client_allowed_scopes": [*OURS, "read:users!user"],
            "display": False,
        },
        {"name": "himalia-operator", "api_token": place.secret("operator-token")},
        {"name": "himalia-supervisor", "api_token": place.secret("supervisor-token")},
    ]
    c.JupyterHub.load_roles = [
        {"name": "himalia-service", "services": [SERVICE], "scopes": SERVICE_SCOPES},
        {"name": "himalia-operator", "services": ["himalia-operator"], "scopes": OPERATOR_SCOPES},
        {"name": "himalia-supervisor", "services": ["himalia-supervisor"], "scopes": SUPERVISOR_SCOPES},
    ]
    c.Spawner.server_token_scopes = ["users:activity!user", "access:servers!server", ENTER, *OURS]
    c.Spawner.oauth_client_allowed_scopes = [ENTER, *OURS]


def _spawning(c: Any) -> None:
    c.JupyterHub.spawner_class = HimaliaDockerSpawner
    c.DockerSpawner.use_internal_ip = True
    c.DockerSpawner.remove = False
    c.DockerSpawner.allowed_images = []  # images come from launch plans only
    c.Spawner.default_url = "/lab"
    c.Spawner.start_timeout = START_TIMEOUT
    c.Spawner.http_timeout = HTTP_TIMEOUT
    c.Spawner.poll_interval = 10
    c.Spawner.consecutive_failure_limit = 0  # a broken image must not end the hub
