"""`himalia status`: what runs, which images are there, and what this machine does not offer."""

from __future__ import annotations

import json
from typing import Any

from himalia_services.local import engine, process, registry, up
from himalia_services.local.home import Home, Trouble
from himalia_spawner.place import DEFAULT_DOMAIN

NAMES = ("supervisor", "proxy", "control", "hub")


def status(home: Home) -> dict[str, Any]:
    """Everything as data. `problems` are sentences; none means all that should run does."""
    if not home.made:
        return {
            "home": str(home.path),
            "problems": [f"There is no installation in {home.path}. Start one with `himalia up`."],
            "lacks": [],
        }
    problems: list[str] = []
    parts = [_part(home, name, problems) for name in NAMES]
    docker = _engine(problems)
    if not any(p["running"] for p in parts):
        problems[:] = ["Himalia is down. `himalia up` starts it."]
    elif not up.login_answers(home):
        problems.append(f"The login page does not answer; the logs are in {home.logs}.")
    registered = registry.answers(home)
    images = _images(home)
    if images["error"]:
        problems.append(
            f"The image {images['building'] or ''} could not be built: {images['error']}".replace("  ", " ")
        )
    elif images["built"] and not registered and parts[0]["running"]:
        problems.append("The registry does not answer, so nothing can be saved; the supervisor starts it again.")
    return {
        "home": str(home.path),
        "url": f"http://{home.domain}:{home.port}",
        "processes": parts,
        "registry": {"running": registered, "address": registry.address(home)},
        "images": images,
        "engine": {"version": docker.version if docker else None},
        "workspaces": len(engine.ours(docker, home, "workspace")) if docker else None,
        "jobs": len(engine.ours(docker, home, "workload")) if docker else None,
        "lacks": _lacks(home, docker),
        "problems": problems,
    }


def _part(home: Home, name: str, problems: list[str]) -> dict[str, Any]:
    running = process.find(home.run / f"{name}.pid")
    if running is None:
        problems.append(
            f"{'The control plane' if name == 'control' else 'The ' + name} does not run; its log is {home.logs / (name + '.log')}."
        )
    ports = {"proxy": [home.port, home.port + 1], "hub": [home.port + 81], "control": [home.port + 82]}
    return {
        "name": name,
        "running": running is not None,
        "pid": running.pid if running else None,
        "uptime_seconds": round(running.uptime) if running else None,
        "ports": ports.get(name, []),
    }


def _engine(problems: list[str]) -> engine.Engine | None:
    try:
        found = engine.connect()
    except Trouble as trouble:
        problems.append(str(trouble))
        return None
    if found is None:
        problems.append("Docker does not answer.")
    return found


def _images(home: Home) -> dict[str, Any]:
    folder = home.path / "images"
    built, progress = _read(folder / "built.json"), _read(folder / "progress.json")
    building = process.find(home.run / "images.pid") is not None
    return {
        "built": {name: image["tag"] for name, image in built.items()},
        "building": progress.get("image") if building or progress.get("error") else None,
        "step": progress.get("step") if building else None,
        "steps": progress.get("steps") if building else None,
        "message": progress.get("message") if building else None,
        "error": progress.get("error"),
    }


def _read(path: Any) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}


def _lacks(home: Home, docker: engine.Engine | None) -> list[str]:
    lacks = list(docker.lacks) if docker else []
    if home.domain == DEFAULT_DOMAIN:
        lacks.append("access from other machines: only loopback is bound; set HIMALIA_DOMAIN to open it")
    return lacks
