"""Jobs: runs of a script, notebook or command in an environment, on the code as it was at submit."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from himalia import schema
from himalia._wait import PATIENCE, until
from himalia.errors import HimaliaError, Invalid, JobFailed, NotFound, Unavailable
from himalia.login import inside_workspace
from himalia.schema import LIVE_JOB_STATES, InputInfo, JobKind, JobRequest, Output, from_wire

if TYPE_CHECKING:
    from himalia.client import Himalia
    from himalia.pack import Pack


class Job:
    """One job. `info` is what the platform last said about it; `refresh()` asks again."""

    def __init__(self, himalia: Himalia, info: schema.Job) -> None:
        self._himalia = himalia
        self.info = info

    def __repr__(self) -> str:
        return f"<Job {self.id}: {self.status}>"

    @property
    def id(self) -> str:
        return self.info.id

    @property
    def status(self) -> str:
        return self.info.status

    @property
    def exit_code(self) -> int | None:
        return self.info.exit_code

    @property
    def over(self) -> bool:
        return self.status not in LIVE_JOB_STATES

    @property
    def outputs(self) -> Outputs:
        return Outputs(self._himalia, self)

    def refresh(self, *, patience: float | None = None) -> Job:
        self.info = from_wire(schema.Job, self._himalia.connection.get(f"/jobs/{self.id}", patience=patience))
        return self

    def wait(
        self, *, timeout: float | None = None, check: bool = False, changed: Callable[[Job], None] | None = None
    ) -> Job:
        """Wait until it is over; with `check` JobFailed unless it Succeeded. `changed` hears of each new state.

        A control plane that restarts is waited out: the job does not depend on it.
        """
        until(
            lambda: self.refresh(patience=PATIENCE),
            lambda job: job.over,
            timeout=timeout,
            changed=changed,
            key=lambda job: (job.status, job.info.queue_position),
            complaint=lambda job: f"{self.id} is still {job.status} after {timeout:.0f} s; it goes on.",
        )
        if check and self.status != "Succeeded":
            error = JobFailed(
                f"{self.id} {self.status}: {self.info.reason_message or 'no reason was given'}",
                code=self.info.reason_code,
            )
            error.job = self
            raise error
        return self

    def log(self, offset: int = 0) -> str:
        """The log as it is now."""
        answer = self._himalia.connection.call(
            "GET", f"/jobs/{self.id}/log", params={"offset": offset}, headers={"Accept": "text/plain"}
        )
        return answer.content.decode(errors="replace")

    def logs(self, *, follow: bool = True) -> Iterator[str]:
        """The log, piece by piece, from its beginning until the job is over; without `follow` what is there now.

        A connection that breaks is made again where it broke: nothing is lost, nothing comes twice.
        """
        return _follow(self) if follow else iter([self.log()])

    def stop(self) -> Job:
        """Ask it to end: TERM, and KILL when it does not."""
        answer = self._himalia.connection.verb(f"/jobs/{self.id}/stop")
        self.info = from_wire(schema.Job, answer) if answer else self.refresh().info
        return self

    def delete(self) -> None:
        """Delete a job that is over, its log and its outputs."""
        self._himalia.connection.call("DELETE", f"/jobs/{self.id}")

    def fetch_outputs(self, to: str | Path | None = None, *, force: bool = False) -> Fetched:
        """Put new and changed files back beside the source, or below `to`. A file that was edited since the submit is kept, unless `force`."""
        return self.outputs.download(to if to is not None else self.source_folder(), force=force)

    def source_folder(self) -> Path:
        """The folder this job's code came from, where that can be told: here in a workspace, or from inside the project itself."""
        path = self.info.input.path if self.info.input else self.info.working_dir
        if inside_workspace(self._himalia.environ) and path and Path(path).is_dir():
            return Path(path)
        here = Path.cwd()
        if path.startswith("/job/"):
            for folder in (here, *here.parents):
                if folder.name == PurePosixPath(path).name:
                    return folder
        raise Invalid(
            f"The folder of {self.id} ({path or 'none'}) is not here. Say where its outputs go: --to DIR.",
            code="no_folder",
        )


def exit_status(job: schema.Job) -> int:
    """The exit code that stands for a job's end: its own one, else 0 for Succeeded and 1 for anything else."""
    if job.status == "Succeeded":
        return 0
    return job.exit_code if job.exit_code is not None and 0 < job.exit_code < 256 else 1


# --- The log ---

_RECONNECT = (0.2, 0.5, 1.0, 2.0)


def _follow(job: Job) -> Iterator[str]:
    connection = job._himalia.connection
    offset = 0
    silent_since: float | None = None
    tries = 0
    while True:
        try:
            for event in connection.events(f"/jobs/{job.id}/log", params={"offset": offset}):
                silent_since, tries = None, 0
                if event.event == "log":
                    data = event.json()
                    offset = int(event.id) if event.id.isdigit() else data["offset"] + len(data["text"].encode())
                    yield data["text"]
                elif event.event == "end":
                    return
        except Unavailable:
            now = time.monotonic()
            silent_since = silent_since or now
            if now - silent_since > PATIENCE:
                raise
        # The stream ended without `end`: a proxy or a control plane that restarts. The next one begins where this one broke.
        time.sleep(_RECONNECT[min(tries, len(_RECONNECT) - 1)])
        tries += 1


# --- Outputs ---


@dataclass(frozen=True)
class Fetched:
    """What was put where. `kept` are files of yours that a download would have overwritten."""

    folder: Path
    written: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)


class Outputs:
    """The files a job made or changed, however it ended."""

    def __init__(self, himalia: Himalia, job: Job) -> None:
        self._himalia = himalia
        self._job = job

    def list(self) -> list[Output]:
        return [from_wire(Output, item) for item in self._himalia.connection.items(f"/jobs/{self._job.id}/outputs")]

    def read(self, path: str) -> bytes:
        return self._himalia.connection.call("GET", self._path(path), headers={"Accept": "*/*"}).content

    def download(self, to: str | Path, *, force: bool = False) -> Fetched:
        """Write all of them below a folder. What is there and was touched after the submit stays as it is, unless `force`."""
        folder = Path(to).expanduser().resolve()
        folder.mkdir(parents=True, exist_ok=True)
        fetched = Fetched(folder)
        for output in self.list():
            target = _inside(folder, output.path)
            if target.is_file() and _digest(target) == output.digest:
                fetched.unchanged.append(output.path)
            elif (
                os.path.lexists(target)
                and not force
                and not (output.change == "changed" and _untouched(target, self._job.info.created_at))
            ):
                fetched.kept.append(output.path)
            else:
                self._fetch(output, target)
                fetched.written.append(output.path)
        return fetched

    def _fetch(self, output: Output, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir() and not target.is_symlink():
            raise Invalid(
                f"{target} is a folder here, and a file in the job. Move it, or choose another folder with --to.",
                code="in_the_way",
            )
        handle, unfinished = tempfile.mkstemp(dir=target.parent, prefix=".himalia-")
        try:
            hashing = hashlib.sha256()
            with os.fdopen(handle, "wb") as file, self._himalia.connection.stream(self._path(output.path)) as response:
                for chunk in response.iter_bytes():
                    hashing.update(chunk)
                    file.write(chunk)
            if output.digest and output.digest != f"sha256:{hashing.hexdigest()}":
                raise Unavailable(f"{output.path} did not arrive whole. Try again.", code="truncated")
            os.chmod(unfinished, _mode(target))
            os.replace(unfinished, target)
        except BaseException:
            os.unlink(unfinished)
            raise

    def _path(self, path: str) -> str:
        return f"/jobs/{self._job.id}/outputs/{quote(path)}"


def _inside(folder: Path, path: str) -> Path:
    """Where an output goes. Names come from a job: none may lead out of the folder, nor may a link on the way."""
    pure = PurePosixPath(path)
    target = folder / pure
    if pure.is_absolute() or not pure.parts or ".." in pure.parts or not target.parent.resolve().is_relative_to(folder):
        raise Invalid(
            f"The output {path!r} would be written outside of {folder}. Choose another folder with --to.",
            code="outside_folder",
        )
    return target


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _untouched(path: Path, since: datetime) -> bool:
    # The inode's change time moves with every write and cannot be set back, as a modification time can.
    return path.is_file() and not path.is_symlink() and path.stat().st_ctime < since.timestamp()


def _mode(target: Path) -> int:
    if target.is_file():
        return target.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


# --- Submitting ---

#: Files that are run by what their name's end says; the control plane knows the interpreter.
SCRIPTS = (".py", ".sh", ".bash", ".r", ".R", ".jl", ".pl")

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(duration: float | timedelta | str) -> int:
    """`2h`, `90m`, `1h30m`, `45` (seconds) or a timedelta, as seconds."""
    if isinstance(duration, timedelta):
        return int(duration.total_seconds())
    if isinstance(duration, (int, float)):
        return int(duration)
    text = duration.strip().lower()
    if text.isdigit():
        return int(text)
    if not re.fullmatch(r"(\d+[smhd])+", text):
        raise Invalid(f"{duration!r} is no duration. Write 90s, 15m, 2h, 1d or 1h30m.", code="duration")
    return sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+)([smhd])", text))


@dataclass(frozen=True)
class Source:
    """What runs: exactly one of a script, a notebook and a command, told apart by how a file is called."""

    kind: JobKind
    program: str = ""
    command: Sequence[str] = ()

    @classmethod
    def of(cls, script: str | Path | None, notebook: str | Path | None, command: str | Sequence[str] | None) -> Source:
        if sum(given is not None for given in (script, notebook, command)) != 1:
            raise Invalid("Say what to run: one of a script, a notebook, a command.", code="invalid")
        if command is not None:
            words = ["bash", "-c", command] if isinstance(command, str) else list(command)
            if not words:
                raise Invalid("The command is empty.", code="invalid")
            return cls("command", command=words)
        program = str(script if script is not None else notebook)
        return cls("notebook" if notebook is not None or program.endswith(".ipynb") else "script", program)


class Jobs:
    """Everything that can be done with jobs: `himalia.connect().jobs`."""

    def __init__(self, himalia: Himalia) -> None:
        self._himalia = himalia

    def list(self, *, limit: int | None = None) -> list[Job]:
        """Mine, the newest first."""
        found = []
        for item in self._himalia.connection.items("/jobs", params={"limit": min(limit, 100)} if limit else None):
            found.append(Job(self._himalia, from_wire(schema.Job, item)))
            if limit and len(found) >= limit:
                break
        return found

    def get(self, id: str) -> Job:
        return Job(self._himalia, from_wire(schema.Job, self._himalia.connection.get(f"/jobs/{quote(id, safe='')}")))

    def submit(
        self,
        script: str | Path | None = None,
        *,
        notebook: str | Path | None = None,
        command: str | Sequence[str] | None = None,
        environment: str | None = None,
        machine: str | None = None,
        args: Sequence[str] = (),
        parameters: Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
        name: str = "",
        max_run: float | timedelta | str | None = None,
        folder: str | Path | None = None,
        exclude: Iterable[str] = (),
        upload: bool = False,
        wait: bool = False,
        packed: Callable[[Pack], None] | None = None,
    ) -> Job:
        """Pack the project as it is now and run a script, a notebook or a command (a text is a line for bash) of it.

        `environment` is `vision`, `ada/vision:3` or a digest; in a workspace the default is the one it was started from.
        `args` follow a script, `parameters` go to a notebook, `env` are variables, `max_run` is `2h` or seconds of running.
        `folder`, `exclude` and `upload` are about what is packed: see `himalia.pack`; `packed` hears what came of it.
        """
        from himalia import pack

        source = Source.of(script, notebook, command)
        ref = self._environment(environment)
        _check(source, args, parameters)
        program = source.program or None
        with pack.project(
            program, notebook=source.kind == "notebook", folder=folder, exclude=exclude, upload=upload
        ) as made:
            if packed is not None:
                packed(made)
            self.upload(made, whole=upload)
            request = request_for(
                source,
                made,
                environment=ref,
                machine=machine,
                arguments=list(args),
                parameters=dict(parameters or {}),
                env=dict(env or {}),
                display_name=name,
                max_run_seconds=seconds(max_run) if max_run is not None else None,
            )
        job = self.create(request)
        return job.wait() if wait else job

    def create(self, request: JobRequest) -> Job:
        """Submit a request that is made already; `submit` makes one."""
        return Job(self._himalia, from_wire(schema.Job, self._himalia.connection.create("/jobs", request)))

    def upload(self, pack: Pack, *, whole: bool = False) -> InputInfo:
        """Give the platform a pack, unless it has it. `whole` asks it to take one that is over the usual limits."""
        connection = self._himalia.connection
        path = f"/inputs/{pack.digest}"
        try:
            connection.call("HEAD", path)
            return InputInfo(digest=pack.digest, size_bytes=pack.size_bytes, files=pack.files)
        except NotFound:
            headers = {"Content-Type": "application/gzip"}
            params = {"whole": "true"} if whole else None
            return from_wire(
                InputInfo, connection.call("PUT", path, params=params, headers=headers, upload=pack.file).json()
            )

    def _environment(self, ref: str | None) -> str:
        given = ref or (
            self._himalia.environ.get("HIMALIA_ENVIRONMENT") if inside_workspace(self._himalia.environ) else None
        )
        if not given:
            raise Invalid("Say in which environment it runs, as in --environment ada/vision.", code="no_environment")
        return self._himalia.environments.resolve(given)


def _check(source: Source, args: Sequence[str], parameters: Mapping[str, Any] | None) -> None:
    if args and source.kind != "script":
        raise Invalid(
            f"Arguments follow a script; a {source.kind} takes {'--param' if source.kind == 'notebook' else 'them in itself'}.",
            code="invalid",
        )
    if parameters and source.kind != "notebook":
        raise Invalid("Parameters go to a notebook; a script takes arguments.", code="invalid")


def request_for(source: Source, pack: Pack, *, arguments: Sequence[str] = (), **more: Any) -> JobRequest:
    """The request that runs `source` on a pack."""
    common: dict[str, Any] = {"working_dir": pack.working_dir, "input": pack.input, **more}
    if source.kind == "notebook":
        return JobRequest(kind="notebook", notebook=pack.source, **common)
    if source.kind == "command":
        return JobRequest(kind="command", command=list(source.command), **common)
    return JobRequest(kind="script", script=pack.source, arguments=list(arguments), **common)


__all__ = [
    "Fetched",
    "HimaliaError",
    "Job",
    "Jobs",
    "Output",
    "Outputs",
    "Source",
    "exit_status",
    "request_for",
    "seconds",
]
