"""The wire schema: what the REST API of Himalia takes and gives, as stdlib dataclasses.

It lives among people's own packages, so it imports nothing but the standard library. FastAPI validates and documents
these classes as they are; `from_wire` reads an answer and ignores fields a newer server adds. States are plain strings:
a client must tolerate one it does not know.
"""

from __future__ import annotations

import types
import typing
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from datetime import datetime
from typing import Any, Literal, TypeVar

Visibility = Literal["private", "people", "group", "everyone"]
JobKind = Literal["script", "notebook", "command"]

#: What has not ended yet, per noun; everything else is final.
LIVE_JOB_STATES = frozenset({"Creating", "Queuing", "EnvPreparing", "Running", "Stopping"})
LIVE_VERSION_PHASES = frozenset({"Committing", "Pushing", "Verifying"})


@dataclass(frozen=True, kw_only=True)
class StatusEntry:
    """One stretch of an object's history; `end_time` is None for the present one."""

    status: str
    reason_code: str = ""
    reason_message: str = ""
    start_time: datetime
    end_time: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A size an operator offers: `cpu` in cores, memory and shm in bytes."""

    name: str
    display_name: str
    cpu: float
    memory_bytes: int
    shm_bytes: int
    default: bool = False


@dataclass(frozen=True, kw_only=True)
class Me:
    """Who the caller is to the control plane."""

    name: str
    admin: bool
    groups: list[str]
    scopes: list[str]


@dataclass(frozen=True, kw_only=True)
class Version:
    """One saved state of an environment, identified by the digest of its manifest once it is Saved."""

    id: str
    ref: str  # "ada/vision:3"
    owner: str
    environment: str
    number: int
    phase: str  # Committing, Pushing, Verifying, Saved, Failed
    reason_code: str = ""
    reason_message: str = ""
    status_history: list[StatusEntry] = field(default_factory=list)
    digest: str | None = None
    size_bytes: int | None = None  # the layer this save added, compressed
    layers: int | None = None
    parent_ref: str | None = None
    parent_digest: str | None = None
    workspace_id: str | None = None
    note: str = ""
    warnings: list[str] = field(default_factory=list)
    created_by: str = ""
    created_at: datetime
    saved_at: datetime | None = None
    progress_bytes: int | None = None
    progress_message: str = ""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """A named line of versions, its owner and who may use it."""

    ref: str  # "ada/vision"
    owner: str
    name: str
    description: str = ""
    visibility: Visibility = "private"
    people: list[str] = field(default_factory=list)
    group: str | None = None
    preset: bool = False
    mine: bool = False
    runs_as_you: str = ""  # the sentence a person reads before starting somebody else's environment
    latest: Version | None = None
    versions: list[Version] = field(default_factory=list)
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class Package:
    name: str
    version: str


@dataclass(frozen=True, kw_only=True)
class Packages:
    """What is installed in a version, by package manager: dpkg, pip, conda."""

    dpkg: list[Package] = field(default_factory=list)
    pip: list[Package] = field(default_factory=list)
    conda: list[Package] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class SaveRequest:
    """Save a workspace as a new version of `name`; the environment is made when it does not exist."""

    name: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class ShareRequest:
    """Who else may use an environment; `people` and `group` matter for the visibility of that name."""

    visibility: Visibility
    people: list[str] = field(default_factory=list)
    group: str | None = None
    description: str | None = None


@dataclass(frozen=True, kw_only=True)
class WorkspaceUrls:
    lab: str
    vscode: str
    terminal: str
    tensorboard: str


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """A persistent JupyterHub server of one person; `name` is empty for the default one."""

    id: str
    owner: str
    name: str
    display_name: str
    status: str
    reason_code: str = ""
    reason_message: str = ""
    status_history: list[StatusEntry] = field(default_factory=list)
    environment: str | None = None  # ref the container was started from
    digest: str | None = None
    machine: str = ""
    urls: WorkspaceUrls | None = None
    latest_snapshot: Version | None = None
    created_at: datetime
    started_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class WorkspaceRequest:
    """Make a named workspace, and start it unless told otherwise."""

    name: str = ""
    display_name: str = ""
    environment: str | None = None
    machine: str | None = None
    start: bool = True


@dataclass(frozen=True, kw_only=True)
class StartRequest:
    environment: str | None = None
    machine: str | None = None


@dataclass(frozen=True, kw_only=True)
class InputInfo:
    """A packed project folder, kept by the digest of its bytes."""

    digest: str
    size_bytes: int
    files: int


@dataclass(frozen=True, kw_only=True)
class JobInput:
    """Which pack a job runs on and the absolute path where it appears in the container."""

    digest: str
    path: str
    git_commit: str = ""
    git_dirty: bool = False


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """Submit a job. Exactly one of `script`, `notebook`, `command` is set, as `kind` says.

    `script` and `notebook` are paths below `working_dir` or absolute; `arguments` follow a script, `parameters` go to a
    notebook. `environment` is `owner/name[:version]` or a digest. `max_run_seconds` counts from Running.
    """

    kind: JobKind
    environment: str
    script: str = ""
    notebook: str = ""
    command: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)
    parameters: dict[str, Any] = field(default_factory=dict)
    machine: str | None = None
    display_name: str = ""
    working_dir: str = ""
    input: JobInput | None = None
    env: dict[str, str] = field(default_factory=dict)
    max_run_seconds: int | None = None


@dataclass(frozen=True, kw_only=True)
class Job:
    id: str
    owner: str
    display_name: str
    kind: JobKind
    command: list[str]
    environment: str
    digest: str
    machine: str
    working_dir: str
    status: str
    reason_code: str = ""
    reason_message: str = ""
    status_history: list[StatusEntry] = field(default_factory=list)
    exit_code: int | None = None
    attempt: int = 1
    queue_position: int | None = None  # 1 is next
    max_run_seconds: int | None = None
    input: JobInput | None = None
    outputs: int = 0
    output_bytes: int = 0
    log_bytes: int = 0
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Output:
    """A file a job made or changed; `path` is relative to the job's folder, in it for workers above 0 `worker-<k>/`."""

    path: str
    size_bytes: int
    digest: str
    change: Literal["new", "changed"]


@dataclass(frozen=True, kw_only=True)
class Event:
    """One thing that happened; ids grow, so a client resumes after the last one it saw."""

    id: int
    time: datetime
    actor: str
    target_kind: Literal["workspace", "environment", "version", "job"]
    target: str
    owner: str
    status: str = ""
    reason_code: str = ""
    reason_message: str = ""


T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Page(typing.Generic[T]):
    """A page of a list; `next_token` is None on the last one."""

    items: list[T]
    next_token: str | None = None


def from_wire(kind: type[T], data: Any) -> T:
    """Build `kind` from decoded JSON. Unknown fields are ignored; a missing required one raises KeyError with its name."""
    return _convert(kind, data)


def _convert(kind: Any, value: Any) -> Any:
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        inner = [a for a in typing.get_args(kind) if a is not type(None)]
        return None if value is None else _convert(inner[0], value)
    if origin is list:
        (item,) = typing.get_args(kind)
        return [_convert(item, v) for v in value]
    if kind is datetime:
        return datetime.fromisoformat(value.replace("Z", "+00:00"))
    if is_dataclass(kind):
        return _dataclass(kind, value)
    return value


def _dataclass(kind: Any, data: dict[str, Any]) -> Any:
    hints = typing.get_type_hints(kind)
    given = {}
    for f in fields(kind):
        if f.name in data:
            given[f.name] = _convert(hints[f.name], data[f.name])
        elif f.default is MISSING and f.default_factory is MISSING:
            raise KeyError(f.name)
    return kind(**given)
