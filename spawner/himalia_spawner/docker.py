"""Workspaces on Docker: which container a plan wants, and how the one that is there is made to fit."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import requests
from docker.errors import APIError, DockerException, ImageNotFound
from docker.types import LogConfig, Mount
from dockerspawner import DockerSpawner
from traitlets import default

from himalia_spawner.mixin import Ended, WorkspaceMixin
from himalia_spawner.plan import Json
from himalia_spawner.refusal import NotStarted

RUN_FOLDER = "/run/himalia/workspace"
ENTRYPOINT = ["/opt/himalia/bin/himalia-run"]
COMMAND = ["workspace"]
PERIOD = 100_000
#: Not needed for sudo and apt, and each a step out of the container.
DROPPED = ["AUDIT_WRITE", "MKNOD", "NET_RAW", "SYS_CHROOT"]
PIDS = 4096
LOG = {"max-size": "10m", "max-file": "3"}
LOG_LINES = 40


def limits(machine: Mapping[str, Any]) -> Json:
    """cpu and memory as Docker counts them: period and quota, and memory without swap beside it."""
    memory = int(machine["memory_bytes"])
    return {
        "cpu_period": PERIOD,
        "cpu_quota": int(float(machine["cpu"]) * PERIOD),
        "mem_limit": memory,
        "memswap_limit": memory,
    }


def mounts(plan: Mapping[str, Any]) -> list[Mount]:
    """The plan's volumes, and the run folder read-only."""
    volumes = [Mount(m["target"], m["source"], type="volume", read_only=bool(m["read_only"])) for m in plan["mounts"]]
    return [*volumes, Mount(RUN_FOLDER, plan["run_folder"], type="bind", read_only=True)]


def labels(plan: Mapping[str, Any]) -> dict[str, str]:
    """What a later start, the saver and the reaper know a container by."""
    return {
        **plan["labels"],
        "himalia.image": plan["image"]["config_digest"],
        "himalia.mounts": plan["mounts_hash"],
        "himalia.shm": str(plan["machine"]["shm_bytes"]),
    }


def needs_remaking(container: Mapping[str, Any], plan: Mapping[str, Any]) -> bool:
    """Whether mounts or /dev/shm differ, which no update changes. The run folder counts: it holds the token."""
    have = container["Config"].get("Labels") or {}
    want = labels(plan)
    if any(have.get(name) != want[name] for name in ("himalia.mounts", "himalia.shm")):
        return True
    return not any(
        m.get("Destination") == RUN_FOLDER and m.get("Source") == plan["run_folder"]
        for m in container.get("Mounts") or []
    )


def needs_update(container: Mapping[str, Any], plan: Mapping[str, Any]) -> bool:
    have, want = container["HostConfig"], limits(plan["machine"])
    pairs = {"CpuPeriod": "cpu_period", "CpuQuota": "cpu_quota", "Memory": "mem_limit", "MemorySwap": "memswap_limit"}
    return any(have.get(theirs) != want[ours] for theirs, ours in pairs.items())


class HimaliaDockerSpawner(WorkspaceMixin, DockerSpawner):
    """DockerSpawner by launch plan. What an operator sets as `c.DockerSpawner.*` holds; the image never comes from there."""

    _executor: ClassVar[ThreadPoolExecutor | None] = None
    _running: bool | None = None

    @property
    def executor(self) -> ThreadPoolExecutor:
        """Eight threads: with DockerSpawner's one, a pull keeps every poll of the hub waiting."""
        cls = HimaliaDockerSpawner
        if cls._executor is None:
            cls._executor = ThreadPoolExecutor(8, thread_name_prefix="docker")
        return cls._executor

    @default("options_form")
    def _default_options_form(self) -> Any:  # DockerSpawner's own default would come first
        return type(self).render_form

    @default("options_from_form")
    def _default_options_from_form(self) -> Any:
        return WorkspaceMixin._default_options_from_form(self)

    @default("cmd")
    def _default_cmd(self) -> Any:
        return WorkspaceMixin._default_cmd(self)

    # --- the plan ---

    def settle(self, plan: Json) -> None:
        self.image = plan["image"]["config_digest"]  # before the name, which DockerSpawner derives from the image
        self.object_name = plan["container"]
        self.network_name = plan["network"]
        self.mem_limit = int(plan["machine"]["memory_bytes"])
        self.cpu_limit = float(plan["machine"]["cpu"])

    async def start(self) -> Any:
        try:
            return await super().start()
        except (DockerException, requests.RequestException) as error:
            raise NotStarted(
                f"Docker did not start the workspace: {_sentence(error)}", reason="engine", status_code=502
            ) from error

    async def fit(self, plan: Json) -> Json:
        container = await self.get_object()
        if container is None:
            return plan
        if container["State"]["Running"]:
            # its token was revoked when the hub last stopped it, so it only looks alive
            self._steps.say("Stopping the container that still ran", 30)
            await self.stop_object()
        if needs_remaking(container, plan):
            kept = await self.preserve(plan)
            await self.remove_object()
            self._remade = True
            return kept
        made_from = (container["Config"].get("Labels") or {}).get("himalia.image")
        if made_from != plan["image"]["config_digest"]:
            self.log.warning(
                "%s was made from %s, the plan says %s", self.object_name, made_from, plan["image"]["config_digest"]
            )
            await self.adopted(plan)
        if needs_update(container, plan):
            await self.docker("update_container", self.object_name, **limits(plan["machine"]))
        return plan

    _remade = False

    async def exists(self) -> bool:
        return await self.get_object() is not None

    # --- the container ---

    async def pull_image(self, image: str) -> None:
        """Nothing here: a container that is there needs no image, and a new one finds its image in `create_object`."""

    async def create_object(self) -> Json:
        plan = self.plan
        assert plan is not None, "start() asks for a plan first"
        image = await self._image(plan)
        host = await self._operators(self.extra_host_config)
        extra = await self._operators(self.extra_create_kwargs)
        host_config = self.client.create_host_config(
            **{
                "binds": self.volume_binds,
                "mounts": [*self.mount_binds, *mounts(plan)],
                "links": self.links,
                "network_mode": plan["network"],
                "shm_size": int(plan["machine"]["shm_bytes"]),
                "cap_drop": DROPPED,
                "pids_limit": PIDS,
                "log_config": LogConfig(type=LogConfig.types.JSON, config=LOG),
                **limits(plan["machine"]),
                **host,
            }
        )
        body = {
            "image": image,
            "name": plan["container"],
            "hostname": self._hostname(),
            "entrypoint": ENTRYPOINT,
            "command": COMMAND,
            "volumes": self.volume_mount_points,
            "ports": [self.port],
            **extra,
            "labels": {**extra.get("labels", {}), **labels(plan)},
            "host_config": {**extra.get("host_config", {}), **host_config},
        }
        made = await self.docker("create_container", **body)
        if self._remade:
            self._remade = False
            await self.adopted(plan)
        return made

    async def _operators(self, setting: Any) -> Json:
        """An operator's extra settings: a dict, or a function of the spawner, which may be async."""
        value: Any = self._eval_if_callable(setting)
        rendered: Any = self._render_templates(await value if inspect.isawaitable(value) else value)
        return dict(rendered or {})

    def _hostname(self) -> str:
        label = self.user.domain.partition(".")[0]  # the hub makes it safe and unique
        return f"{label}-{self.name}"[:63].rstrip("-")

    async def _image(self, plan: Json) -> str:
        """What this engine calls the plan's image: the config's digest, or with containerd's store the manifest's; else it is pulled."""
        image = plan["image"]
        for name in (image["config_digest"], image["digest"]):
            if not name:
                continue
            try:
                return (await self.docker("inspect_image", name))["Id"]
            except ImageNotFound:
                continue
        return await self._pull(image["repository"], image["digest"])

    async def _pull(self, repository: str, digest: str) -> str:
        self._steps.say("Fetching the image from the registry", 65)
        name = f"{self.place.registry}/{repository}"
        login = {"username": "himalia", "password": self.place.secret("registry-password")}
        await self.docker("pull", name, digest, auth_config=login)
        return (await self.docker("inspect_image", f"{name}@{digest}"))["Id"]

    # --- what the engine says ---

    async def get_object(self) -> Json | None:
        """The container, None when it is gone. An engine that is in trouble raises: DockerSpawner would say "gone" then."""
        try:
            found = await self.docker("inspect_container", self.object_name)
        except APIError as error:
            if error.response is None or error.response.status_code != 404:
                raise
            self.object_id = ""
            return None
        self.object_id = found["Id"]
        return found

    async def poll(self) -> Any:
        """None when it runs, else how it ended. Without an answer of the engine: what was known last."""
        if self.plan is None:
            return 0
        try:
            answer = await super().poll()
        except (DockerException, requests.RequestException) as error:
            known = self._running if self._running is not None else self.server is not None
            self.log.warning(
                "Docker does not answer about %s (%s); taking it as %s",
                self._log_name,
                error,
                "running" if known else "stopped",
            )
            return None if known else 0
        self._running = answer is None
        return answer

    async def ended(self) -> Ended | None:
        try:
            container = await self.get_object()
            if container is None or container["State"]["Running"]:
                return None
            log = await self.docker("logs", self.object_name, tail=LOG_LINES)
        except (DockerException, requests.RequestException):
            return None
        state = container["State"]
        sentence = f"The workspace's server ended by itself with exit code {state['ExitCode']}."
        if state.get("OOMKilled"):
            sentence = "The workspace ran out of memory. Start it on a larger machine, or use less."
        return Ended(state["ExitCode"] == 0, sentence, log.decode(errors="replace"))

    async def discard(self) -> None:
        try:
            await self.docker("remove_container", self.object_name, v=True, force=True)
        except APIError as error:
            if error.response is None or error.response.status_code != 404:
                raise


def _sentence(error: Exception) -> str:
    return str(getattr(error, "explanation", None) or error)


__all__ = ["HimaliaDockerSpawner"]
