"""The Docker Engine of this machine, as an installation uses it."""

from __future__ import annotations

import aiodocker

from himalia_services.engines.docker.engine import DockerEngine, PullFrom
from himalia_services.engines.docker.render import Site
from himalia_services.settings import REGISTRY_USER, Settings
from himalia_services.snapshot.registry import Registry

USUAL = "unix:///var/run/docker.sock"


def connect(settings: Settings, registry: Registry) -> DockerEngine:
    """Reaches it when it is first asked something, so that a daemon that is away keeps nothing else from starting."""
    site = Site(
        instance=settings.instance,
        prefix=settings.prefix,
        network=settings.network,
        runs=settings.workloads_run,
        spool=settings.saves,
    )
    pull_from = PullFrom(
        host=settings.registry_host, username=REGISTRY_USER, password=settings.secret("registry-password")
    )
    return DockerEngine(_docker(), site, registry=registry, pull_from=pull_from)


def _docker() -> aiodocker.Docker:
    try:
        return aiodocker.Docker()
    except (AssertionError, ValueError):  # it looked for a socket and found none; there may be one later
        return aiodocker.Docker(USUAL)
