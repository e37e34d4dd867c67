"""Docker Engine, from 20.10 on."""

from himalia_services.engines.docker.engine import DockerEngine, Site

__all__ = ["DockerEngine", "Site"]
