"""Jobs as values: what is run, what an ended container means, and what to do next about a job. Pure."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from himalia import schema
from himalia_services.errors import Invalid
from himalia_services.model.phases import terminal
from himalia_services.model.workload import Mount, WorkerObserved, WorkloadId

HOME = "/home/jovyan"
LIVE = "/run/himalia/live"
#: Where a job without an input works.
NOWHERE = "/job/work"
#: Between TERM and KILL.
GRACE = timedelta(seconds=10)
MAX_RUN = timedelta(days=30)

STOPPED_BY_USER = "stopped_by_user"
MAX_DURATION = "max_duration_exceeded"

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_COMMIT = re.compile(r"[0-9a-f]{0,64}")
_COMMAND_BYTES = 100_000
_ENV_BYTES = 64_000
_PARAMETERS_BYTES = 256_000
_NAME_LONGEST = 255
_PATH_LONGEST = 4096
_MESSAGE_LONGEST = 1000

#: What runs a script, by the end of its name; anything else runs by itself.
INTERPRETERS = {".py": "python", ".sh": "bash", ".bash": "bash", ".r": "Rscript", ".jl": "julia", ".pl": "perl"}


# What is run


def workload_id(job: str, attempt: int) -> WorkloadId:
    return WorkloadId(f"{job}-a{attempt}")


def check(request: schema.JobRequest) -> None:
    """Refuse a request that cannot mean anything, with the sentence why."""
    _check_kind(request)
    _check_texts(request)
    if request.max_run_seconds is not None and not 1 <= request.max_run_seconds <= MAX_RUN.total_seconds():
        raise Invalid("The longest run is between one second and 30 days.", code="max_run_seconds")
    if request.input is not None:
        _check_place(request.input.path)
        if not _COMMIT.fullmatch(request.input.git_commit):
            raise Invalid("A git commit is up to 64 hexadecimal digits.", code="git_commit")
    if request.working_dir:
        _check_path(request.working_dir, "The working directory")


def _check_kind(request: schema.JobRequest) -> None:
    given = [
        kind
        for kind, value in (("script", request.script), ("notebook", request.notebook), ("command", request.command))
        if value
    ]
    if given != [request.kind]:
        named = " and ".join(given) or "none of them"
        raise Invalid(
            f"A {request.kind} job takes `{request.kind}` and neither of the other two; this has {named}.", code="kind"
        )
    if request.arguments and request.kind != "script":
        raise Invalid(
            "Arguments follow a script. A command has them in itself, a notebook takes parameters.", code="arguments"
        )
    if request.parameters and request.kind != "notebook":
        raise Invalid("Parameters go to a notebook. A script takes arguments.", code="parameters")
    if request.kind == "notebook" and not request.notebook.endswith(".ipynb"):
        raise Invalid(
            f"“{_short(request.notebook)}” is no notebook: its name does not end with .ipynb.", code="notebook"
        )
    if request.kind == "script" and request.script.endswith(".ipynb"):
        raise Invalid(f"“{_short(request.script)}” is a notebook: submit it as one.", code="script")


def _check_texts(request: schema.JobRequest) -> None:
    words = [request.script, request.notebook, *request.command, *request.arguments]
    if sum(len(word.encode(errors="replace")) + 1 for word in words) > _COMMAND_BYTES:
        raise Invalid("The command is longer than 100 kB. Put what is long into a file of the project.", code="command")
    if any("\0" in word for word in words):
        raise Invalid("A command cannot hold a zero byte.", code="command")
    if len(json.dumps(request.parameters)) > _PARAMETERS_BYTES:
        raise Invalid(
            "The parameters are longer than 256 kB. Put what is long into a file of the project.", code="parameters"
        )
    if len(request.display_name) > _NAME_LONGEST:
        raise Invalid(f"A job's name has at most {_NAME_LONGEST} characters.", code="display_name")
    for name, value in request.env.items():
        if not _ENV_NAME.fullmatch(name) or "\0" in value:
            raise Invalid(
                f"“{_short(name)}” cannot be an environment variable. Use letters, digits and underscores, not beginning with a digit.",
                code="env",
            )
    if sum(len(name) + len(value.encode(errors="replace")) for name, value in request.env.items()) > _ENV_BYTES:
        raise Invalid("The environment variables are longer than 64 kB in all.", code="env")


def _check_place(path: str) -> None:
    _check_path(path, "The path of the input")
    if not (path == HOME or path.startswith((f"{HOME}/", "/job/"))):
        raise Invalid(f"The input cannot appear at {_short(path)}: it goes below {HOME} or /job.", code="input_path")


def _check_path(path: str, what: str) -> None:
    if (
        not path.startswith("/")
        or posixpath.normpath(path) != path
        or path.startswith("//")
        or "\0" in path
        or len(path) > _PATH_LONGEST
    ):
        raise Invalid(
            f"{what} is an absolute path without “.”, “..” and a slash at its end; “{_short(path)}” is not.",
            code="path",
        )


def working_dir(request: schema.JobRequest) -> str:
    """Where it runs: as asked, else a notebook's own folder, else the project folder."""
    if request.working_dir:
        return request.working_dir
    root = request.input.path if request.input is not None else NOWHERE
    return posixpath.normpath(posixpath.join(root, posixpath.dirname(request.notebook)))


def command(request: schema.JobRequest) -> list[str]:
    """What a person reads and, but for notebooks, what is executed."""
    if request.kind == "command":
        return list(request.command)
    if request.kind == "notebook":
        return _notebook(
            posixpath.join(
                working_dir(request), request.notebook if request.working_dir else posixpath.basename(request.notebook)
            ),
            request.parameters,
        )
    interpreter = INTERPRETERS.get(posixpath.splitext(request.script)[1].lower())
    if interpreter is not None:
        # a name that begins with a dash would be an option
        return [
            interpreter,
            request.script if not request.script.startswith("-") else f"./{request.script}",
            *request.arguments,
        ]
    own = request.script if "/" in request.script else f"./{request.script}"
    return [own, *request.arguments]


def _notebook(path: str, parameters: Mapping[str, Any]) -> list[str]:
    return ["papermill", path, path, *(("--parameters_yaml", json.dumps(parameters)) if parameters else ())]


def spec(kind: str, command: Sequence[str], cwd: str, env: Mapping[str, str]) -> dict[str, object]:
    """What the runner reads. It runs notebooks its own way, so they are named beside the command."""
    made: dict[str, object] = {
        "kind": kind,
        "argv": list(command),
        "cwd": cwd,
        "env": dict(env),
        "grace_seconds": GRACE.total_seconds(),
    }
    if kind == "notebook":
        made["notebook"] = command[1]
        made["parameters"] = json.loads(command[4]) if len(command) > 4 else {}
    return made


def title(request: schema.JobRequest) -> str:
    """A name for who gave none."""
    name = request.display_name or posixpath.basename(request.script or request.notebook) or " ".join(request.command)
    return _short(name)


def mounts(volumes: Collection[tuple[str, str]], place: str) -> list[Mount]:
    """A person's volumes (name and target) at their places and once more where links of a pack point.

    The project folder takes the place of a volume at the same path.
    """
    own = [Mount(source=name, target=target) for name, target in volumes if target != place]
    return own + [Mount(source=name, target=live(target)) for name, target in volumes]


def live(target: str) -> str:
    """Where a volume is found once more: home below `live/home`, a group's folder below `live/shared`."""
    return f"{LIVE}/home" if target == HOME else f"{LIVE}/{target.removeprefix(f'{HOME}/')}"


# What its end means


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """How a job ends."""

    status: str
    reason_code: str = ""
    reason_message: str = ""


def conclude(
    worker: WorkerObserved | None, result: Mapping[str, object] | None, stop_reason: str, *, stopped: bool
) -> Conclusion:
    """What an ended worker means. None: its container vanished. `stopped`: a signal was sent for `stop_reason`."""
    if worker is None or worker.state != "exited":  # gone, or standing there without ever having run
        return (
            _cut(stop_reason)
            if stop_reason
            else Conclusion(status="Failed", reason_code="engine_lost", reason_message=_VANISHED)
        )
    code = worker.exit_code or 0
    if stop_reason and (stopped or code):
        return _cut(stop_reason)
    if code == 0:
        return Conclusion(status="Succeeded")
    return Conclusion(status="Failed", **_failure(code, worker, result))


_VANISHED = (
    "The job's container is gone, and Himalia did not remove it. What it had written by then is lost; submit it again."
)
_TERM = 15
_UNUSABLE = range(125, 128)


def _failure(code: int, worker: WorkerObserved, result: Mapping[str, object] | None) -> dict[str, str]:
    if worker.oom_killed:
        return _reason(
            "out_of_memory", "The job needed more memory than its machine has. Submit it on a larger machine."
        )
    if result is None:
        sentence = f"The job's container was ended from outside (exit code {code}), as by a restart of the engine. Submit it again."
        return _reason("engine_lost", sentence)
    if isinstance(error := result.get("error"), str) and error:
        # 125 to 127: it never began
        return _reason("start_failed" if code in _UNUSABLE else "container_exited_with_error", error)
    if result.get("signal") == _TERM:
        return _reason(
            "engine_lost",
            "The job was told to end, and not by Himalia: the engine was restarted, or somebody stopped it. Submit it again.",
        )
    if isinstance(signal := result.get("signal"), int):
        return _reason("container_exited_with_error", f"The command was ended by signal {signal}.")
    return _reason("container_exited_with_error", f"The command ended with exit code {code}. Its log says more.")


def _reason(code: str, sentence: str) -> dict[str, str]:
    return {"reason_code": code, "reason_message": sentence[:_MESSAGE_LONGEST]}


def _cut(stop_reason: str) -> Conclusion:
    if stop_reason == MAX_DURATION:
        return Conclusion(
            status="Failed",
            reason_code=MAX_DURATION,
            reason_message="The job ran for as long as it was allowed to, and was ended.",
        )
    return Conclusion(status="Stopped", reason_code=stop_reason, reason_message="Stopped on request.")


# What to do next


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A job's row and what the engine reports. `worker` is None when there is no container; `slot` says that it is its turn."""

    status: str
    stop_reason: str = ""
    delete_wanted: bool = False
    slot: bool = False
    running: timedelta = timedelta()  # since its start
    max_run: timedelta | None = None
    stopping: timedelta | None = None  # since TERM was sent
    worker: WorkerObserved | None = None


@dataclass(frozen=True)
class Queue:
    """It waits for its turn from now on."""


@dataclass(frozen=True)
class Admit:
    """It has a slot: prepare it."""


@dataclass(frozen=True)
class Apply:
    """Create and start what is missing."""


@dataclass(frozen=True)
class Run:
    """It runs: say so."""


@dataclass(frozen=True)
class Term:
    """Tell it to end."""

    reason: str


@dataclass(frozen=True)
class Kill:
    """End it."""


@dataclass(frozen=True)
class Collect:
    """It has ended: take its log and its outputs, and say how it ended."""


@dataclass(frozen=True)
class End:
    """It is over without having run: remove what there is, and say so."""


@dataclass(frozen=True)
class Delete:
    """Remove what it left everywhere."""


@dataclass(frozen=True)
class Wait:
    """Nothing to do before the engine or a person says more, or `until` has passed."""

    until: timedelta | None = None


@dataclass(frozen=True)
class Rest:
    """It is over."""


Decision = Queue | Admit | Apply | Run | Term | Kill | Collect | End | Delete | Wait | Rest


def decide(facts: Facts) -> Decision:
    """The next step of one job; applied again and again it ends in Rest, Delete or Wait."""
    if terminal("job", facts.status):
        return Delete() if facts.delete_wanted else Rest()
    state = facts.worker.state if facts.worker is not None else "absent"
    if facts.status in ("Creating", "Queuing"):
        return _waiting(facts, state)
    if state == "exited":
        return Collect()
    if facts.status == "EnvPreparing":
        return _preparing(facts, state)
    return _started(facts, state)


def _waiting(facts: Facts, state: str) -> Decision:
    if facts.stop_reason:
        return End()
    if facts.status == "Creating":
        return Queue()
    # A container without a slot is one whose row was put back by hand: it counts as admitted.
    return Admit() if facts.slot or state != "absent" else Wait()


def _preparing(facts: Facts, state: str) -> Decision:
    if state == "running":
        return Term(facts.stop_reason) if facts.stop_reason else Run()
    return End() if facts.stop_reason else Apply()


def _started(facts: Facts, state: str) -> Decision:
    """Running or Stopping. What ran and is not there any more, or stands there as if it had never run, is lost."""
    if state != "running":
        return Collect()
    if facts.stopping is not None:
        return Wait(GRACE - facts.stopping) if facts.stopping < GRACE else Kill()
    if facts.stop_reason:
        return Term(facts.stop_reason)
    if facts.max_run is None:
        return Wait()
    return Wait(facts.max_run - facts.running) if facts.running < facts.max_run else Term(MAX_DURATION)


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:79] + "…"
