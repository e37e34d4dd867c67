"""What makes a JupyterHub server a workspace, on any engine: it starts by a plan, and nothing of ours is in its container's Env.

`WorkspaceMixin` stands in front of a Spawner class. What differs by engine (how a container is compared, kept, discarded) are the
methods that raise NotImplementedError here.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyterhub.spawner import Spawner
from jupyterhub.utils import isoformat
from sqlalchemy.orm import object_session
from tornado import web
from traitlets import Float, Instance, default

from himalia_spawner import options
from himalia_spawner.place import Place
from himalia_spawner.plan import Away, Json, PlanService, Refused
from himalia_spawner.refusal import NotStarted

SAVING = {
    "Committing": "Keeping what you installed: reading the changes",
    "Pushing": "Keeping what you installed: storing them",
    "Verifying": "Keeping what you installed: trying them out",
}


@dataclass(frozen=True)
class Ended:
    """How a server's container ended: `clean` when by exit code 0, `sentence` for a person, `log` its last lines."""

    clean: bool
    sentence: str
    log: str


class Steps:
    """What happens during a start, for everybody who looks at the spawn page, also those who come late."""

    def __init__(self) -> None:
        self._events: list[Json] = []
        self._more = asyncio.Event()

    def say(self, message: str, percent: int) -> None:
        """Add a step; saying the same again adds nothing."""
        event = {"message": message, "progress": percent}
        if self._events and self._events[-1] == event:
            return
        self._events.append(event)
        self._more.set()
        self._more = asyncio.Event()

    async def follow(self) -> AsyncIterator[Json]:
        """All steps from the first on. Ends only when its reader stops."""
        seen = 0
        while True:
            while seen < len(self._events):
                yield self._events[seen]
                seen += 1
            await self._more.wait()


class WorkspaceMixin(Spawner):
    """Starts a server by its launch plan and tells the control plane what becomes of it."""

    place = Instance(Place)
    plans = Instance(PlanService)
    outage_seconds = Float(
        30.0, help="How long a start that waits tolerates a control plane that does not answer."
    ).tag(config=True)
    wait_seconds = Float(1.0, help="How often a start that waits asks again.").tag(config=True)

    #: The last plan, kept in the spawner's state: with the control plane away a workspace starts as it last was.
    plan: Json | None = None
    #: With this False the hub makes a fresh token and OAuth client at each start; kept ones lose their scopes (JupyterHub 6.1).
    will_resume = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._steps = Steps()
        self._stopping = False
        self._failure = ""
        self._tasks: set[asyncio.Task[None]] = set()

    @default("place")
    def _default_place(self) -> Place:
        return Place.read(os.environ)

    @default("plans")
    def _default_plans(self) -> PlanService:
        return PlanService(self.place.internal_socket, self.place.home / "secrets" / "internal-token")

    @default("cmd")
    def _default_cmd(self) -> list[str]:
        return ["jupyterhub-singleuser"]

    # --- the seam to an engine ---

    def settle(self, plan: Json) -> None:
        """Take names, image and limits from the plan."""
        raise NotImplementedError

    async def exists(self) -> bool:
        """Whether the container of the last plan is there, running or not."""
        raise NotImplementedError

    async def fit(self, plan: Json) -> Json:
        """Make what exists agree with the plan, and stop it when it runs; the answer is the plan to start by."""
        raise NotImplementedError

    async def ended(self) -> Ended | None:
        """How the container ended; None when it runs, is gone, or the engine does not answer."""
        raise NotImplementedError

    async def discard(self) -> None:
        """Remove the container for good; absent is success."""
        raise NotImplementedError

    # --- state ---

    def load_state(self, state: Json) -> None:
        super().load_state(state)
        plan = state.get("plan")
        if plan:
            self.plan = plan
            self.settle(plan)

    def get_state(self) -> Json:
        state = super().get_state()
        if self.plan:
            state["plan"] = self.plan
        return state

    # --- what the server gets ---

    def get_env(self) -> dict[str, str]:
        """Nothing: a container's Env is frozen at its creation and copied into saved images. `server_env` has the whole."""
        return {}

    def server_env(self) -> dict[str, str]:
        """The environment of the server: the hub's, the operator's, and the plan's."""
        env = {name: str(value) for name, value in super().get_env().items() if value is not None}
        return env | {name: str(value) for name, value in (self.plan or {}).get("env", {}).items()}

    def write_environment(self, plan: Json) -> None:
        """Write environment and command anew, by rename: the folder is what is mounted, so the container sees the new file."""
        folder = Path(plan["run_folder"])
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        folder.chmod(0o755)
        text = json.dumps({"env": self.server_env(), "argv": [*(self.cmd or []), *(self.get_args() or [])]})
        new = folder / ".environment.json"
        new.unlink(missing_ok=True)
        # readable by the container's user whatever uid the hub has; `run/` above it is 0700
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
        with os.fdopen(descriptor, "w") as file:
            os.fchmod(descriptor, 0o444)
            file.write(text)
        new.rename(folder / "environment.json")

    # --- start ---

    async def start(self) -> Any:
        self._steps = Steps()
        self._stopping = False
        self._failure = ""
        plan = await self.launch()
        self._watch_outcome()
        await self.report("Starting")
        if plan.get("runs_as_you"):
            self._steps.say(plan["runs_as_you"], 60)
        plan = await self.fit(plan)
        self.write_environment(plan)
        self._steps.say("Starting the container", 70)
        address = await super().start()
        self._steps.say("Waiting for JupyterLab", 85)
        return address

    async def launch(self) -> Json:
        """Ask for the plan and wait while the image it needs is being built."""
        # without a plan nobody knows its name, so it may be there: then nothing is started over it
        request = self._person() | {
            "display_name": self.orm_spawner.display_name or self.name,
            "user_options": options.chosen(self.user_options or {}),
            "container": self.plan is None or await self.exists(),
        }
        waited = False
        away_since: float | None = None
        clock = asyncio.get_running_loop().time
        while True:
            try:
                plan = await self.plans.plan(request)
                self._adopt(plan | {"groups": request["groups"]})
                return self.plan or plan
            except Away as error:
                away_since = away_since or clock()
                if not waited or clock() - away_since > self.outage_seconds:
                    return self._last_plan(error)
            except Refused as refusal:
                away_since = None
                if refusal.code != "image_building":
                    raise NotStarted(str(refusal), reason=refusal.code, status_code=refusal.status) from refusal
                self._show_build(refusal)
                waited = True
            await asyncio.sleep(self.wait_seconds)

    def _person(self) -> Json:
        user = self.user
        return {
            "user": user.name,
            "user_created": isoformat(user.created),
            "admin": bool(user.admin),
            "groups": sorted(group.name for group in user.groups),
            "server": self.name,
        }

    def _adopt(self, plan: Json) -> None:
        self.plan = plan
        self.settle(plan)
        # kept at once: a hub killed during the start must still know which container is this server's
        self.orm_spawner.state = self.get_state()
        session = object_session(self.orm_spawner)
        if session is not None:
            session.commit()

    def _last_plan(self, error: Away) -> Json:
        if self.plan is None:
            raise NotStarted(
                f"The workspace cannot start yet: {error}. Try again in a few seconds; an admin sees what is wrong with `himalia status`.",
                reason="control_plane_away",
                status_code=503,
            ) from error
        left = set(self.plan.get("groups", [])) - set(self._person()["groups"])
        if left:  # the last plan would mount their folders
            raise NotStarted(
                f"You are not in {', '.join(sorted(left))} any more, and the workspace can be started without that folder only once the control plane answers: {error}.",
                reason="control_plane_away",
                status_code=503,
            ) from error
        self.log.warning("Starting %s by its last plan: %s", self._log_name, error)
        self._steps.say("The control plane does not answer; starting the workspace as it last was", 50)
        self.settle(self.plan)
        return self.plan

    def _show_build(self, refusal: Refused) -> None:
        progress = refusal.problem.get("progress") or {}
        if progress.get("error"):
            raise NotStarted(
                f"The image of this environment could not be built: {progress['error']}",
                reason="image_building",
                status_code=503,
            )
        step, steps = int(progress.get("step") or 0), int(progress.get("steps") or 0)
        share = f" (step {step} of {steps})" if steps else ""
        message = progress.get("message") or "preparing"
        self._steps.say(
            f"Building the image of this environment: {message}{share}", 5 + (50 * step // steps if steps else 0)
        )

    async def preserve(self, plan: Json) -> Json:
        """Keep the container's changes as a private version and answer the plan that starts from it."""
        workspace = plan["workspace_id"]
        try:
            version = await self.plans.preserve(workspace)
            while version["phase"] not in ("Saved", "Failed"):
                phase, done = str(version["phase"]), version.get("progress_bytes")
                self._steps.say(SAVING.get(phase, phase) + (f" ({options.size(done)})" if done else ""), 40)
                await asyncio.sleep(self.wait_seconds)
                version = await self._version(version["id"])
        except (Away, Refused) as error:
            raise self._unkept(str(error)) from error
        if version["phase"] == "Failed":
            raise self._unkept(version.get("reason_message") or version.get("reason_code") or "the save failed")
        kept = plan | {"image": version["image"]}
        self._adopt(kept)
        return kept

    async def _version(self, id: str) -> Json:
        """One look at a version; a control plane that is being restarted is waited for."""
        clock = asyncio.get_running_loop().time
        until = clock() + self.outage_seconds
        while True:
            try:
                return await self.plans.version(id)
            except Away:
                if clock() > until:
                    raise
            await asyncio.sleep(self.wait_seconds)

    @staticmethod
    def _unkept(why: str) -> NotStarted:
        return NotStarted(
            f"The workspace's folders changed, so its container has to be made anew, and what you installed in it could not be kept first: {why} "
            "Nothing was changed. Try again, or ask an admin.",
            reason="not_preserved",
            status_code=503,
        )

    async def adopted(self, plan: Json) -> None:
        """Tell the control plane what the container was made from; the next start repeats it when this one cannot."""
        try:
            await self.plans.adopted(plan["workspace_id"])
        except (Away, Refused) as error:
            self.log.warning("%s was made anew and the control plane does not know yet: %s", self._log_name, error)

    async def progress(self) -> AsyncGenerator[Json, None]:
        async for event in self._steps.follow():
            yield event

    async def poll(self) -> Any:
        return await super().poll()  # the hub asks each spawner class for its own

    # --- what became of it ---

    def _watch_outcome(self) -> None:
        """The hub tells nobody when a server is ready or gave up; its future does."""
        future = self._spawn_future
        if future is not None:
            future.add_done_callback(lambda done: self._later(self._conclude(done)))

    async def _conclude(self, done: asyncio.Future[Any]) -> None:
        if done.cancelled():
            return
        error = done.exception()
        if error is None:
            await self.report("Running")
        elif not self._failure:
            sentence = (
                getattr(error, "message", "") or getattr(error, "log_message", "") or str(error) or type(error).__name__
            )
            await self.report("Failed", "server_failed", f"The workspace did not start: {sentence}")

    async def stop(self, now: bool = False) -> None:
        """Stop the container. Never raises: the hub would swallow it and forget the server all the same."""
        self._stopping = True
        await self.report("Stopping")
        try:
            await super().stop(now)
        except Exception:
            self.log.exception("Stopping %s did not work; its next start stops it first", self._log_name)

    def run_post_stop_hook(self) -> Coroutine[Any, Any, None]:
        return self._after_stop(super().run_post_stop_hook())

    async def _after_stop(self, hook: Any) -> None:
        if asyncio.iscoroutine(hook) or isinstance(hook, asyncio.Future):
            await hook
        ended = None if self._stopping else await self.ended()
        if ended is None or ended.clean:
            await self.report("Stopped")
            return
        self._failure = f"{ended.sentence}\n{ended.log}".strip()
        await self.report("Failed", "server_failed", self._failure)

    async def report(self, status: str, code: str = "", message: str = "") -> None:
        """Say what the hub sees; a control plane that is away learns it at its next look."""
        if not self.plan:
            return
        try:
            await self.plans.phase(self.plan["workspace_id"], status, code, message[-4000:])
        except (Away, Refused) as error:
            self.log.warning("Could not report %s of %s: %s", status, self._log_name, error)

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- the end ---

    def delete_forever(self) -> Any:
        """Remove the container and its run folder. The hub has asked its question; home and group folders stay."""
        return self._delete()

    async def _delete(self) -> None:
        if self.plan is None:
            return
        await self.discard()
        shutil.rmtree(self.plan["run_folder"], ignore_errors=True)
        await self.report("Deleting")
        self.plan = None

    async def rename(self, old_name: str, new_name: str) -> None:
        raise web.HTTPError(
            400, "A workspace keeps its name, since its container is found by it. Give it another display name instead."
        )

    # --- the spawn page ---

    @default("options_form")
    def _default_options_form(self) -> Any:
        return type(self).render_form

    @default("apply_user_options")
    def _default_apply_user_options(self) -> Any:
        # read at every start, not at submission: the hub keeps them, and uses them again when a start brings none
        return lambda spawner, user_options: options.chosen(user_options) and None

    @default("options_from_form")
    def _default_options_from_form(self) -> Any:
        return options.from_form

    def options_from_query(self, query_data: dict[str, list[str]]) -> Any:
        """A link only preselects: somebody else's environment must not start because a page was opened. `AskFirst` asks never."""
        raise NotStarted("Check what you are about to start.", reason="confirm", status_code=200)

    async def render_form(self) -> str:
        wanted = {name: self._asked(f"opt-{name}") for name in options.FIELDS}
        person = self._person()
        query = person | {"admin": "true" if person["admin"] else "false", "groups": ",".join(person["groups"])}
        try:
            offer = await self.plans.options(query)
        except Away:
            if self.plan is None:
                return options.render(
                    {
                        "environments": [],
                        "machines": [],
                        "locked": "The control plane is starting. Wait a few seconds.",
                    },
                    {},
                )
            offer = None
        except Refused as refusal:
            raise web.HTTPError(refusal.status, str(refusal)) from refusal
        return options.render(offer, wanted)

    def _asked(self, name: str) -> str:
        return self.handler.get_query_argument(name, "") if self.handler else ""
