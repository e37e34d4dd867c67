"""Submitting a file of this workspace as a job, and putting a job's outputs beside it: plain functions that block."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from himalia import pack, schema
from himalia.client import Himalia
from himalia.errors import Invalid, NotFound
from himalia.job import Fetched, Source, request_for

#: What runs, by how its file is called; the same as the front end offers.
KINDS = {".py": "script", ".sh": "script", ".ipynb": "notebook"}


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What the run dialog asks for. `path` is relative to the server's root, as the lab writes paths."""

    path: str
    environment: str
    machine: str | None = None
    arguments: list[str] = field(default_factory=list)
    parameters: dict[str, Any] = field(default_factory=dict)
    max_run_seconds: int | None = None
    display_name: str = ""

    @classmethod
    def read(cls, body: Any) -> Submission:
        """From decoded JSON; Invalid says what is wrong with it."""
        if not isinstance(body, dict):
            raise Invalid("The request is no JSON object.")
        submission = cls(
            path=_typed(body, "path", str, ""),
            environment=_typed(body, "environment", str, ""),
            machine=_typed(body, "machine", str, None),
            arguments=_typed(body, "arguments", list, []),
            parameters=_typed(body, "parameters", dict, {}),
            max_run_seconds=_typed(body, "max_run_seconds", int, None),
            display_name=_typed(body, "display_name", str, ""),
        )
        if not all(isinstance(argument, str) for argument in submission.arguments):
            raise Invalid("arguments are a list of texts.")
        if not submission.environment:
            raise Invalid("Choose an environment for the job.")
        kind = KINDS.get(PurePosixPath(submission.path).suffix.lower())
        if kind is None:
            raise Invalid("Only .py, .ipynb and .sh files run as jobs.")
        if body.get("kind", kind) != kind:
            raise Invalid(f"{submission.path} runs as a {kind}.")
        return submission


def _typed(body: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or isinstance(value, bool):
        raise Invalid(f"{name} is not right: {value!r}.")
    return value


def locate(root: Path, path: str) -> Path:
    """The file that the lab calls `path`."""
    pure = PurePosixPath(path.lstrip("/"))
    if ".." in pure.parts:
        raise Invalid(f"{path} leads out of the workspace's folder.")
    found = root / pure
    if not found.is_file():
        raise NotFound(f"{path} is not there. Was it renamed or deleted?")
    return found


def submit(himalia: Himalia, root: Path, submission: Submission) -> tuple[schema.Job, str]:
    """Pack the file's project, upload it, submit. Gives the job and the packer's sentences."""
    file = locate(root, submission.path)
    source = Source.of(str(file), None, None)
    # In the lab a person has no working directory but the file's own folder.
    with pack.project(file, notebook=source.kind == "notebook", cwd=file.parent) as made:
        himalia.jobs.upload(made)
        request = request_for(
            source,
            made,
            environment=submission.environment,
            machine=submission.machine,
            arguments=submission.arguments,
            parameters=submission.parameters,
            display_name=submission.display_name or file.name,
            max_run_seconds=submission.max_run_seconds,
        )
        sentence = ". ".join([made.summary(), *(note.rstrip(".") for note in made.notes)])
    return himalia.jobs.create(request).info, sentence


def put_back(himalia: Himalia, job_id: str) -> tuple[Fetched, str]:
    """Put a job's outputs beside its source; what a person has edited meanwhile stays theirs."""
    job = himalia.jobs.get(job_id)
    try:
        fetched = job.fetch_outputs()
    except Invalid as error:
        if error.code != "no_folder":
            raise
        raise Invalid(
            f"The folder this job came from is not in this workspace. In a terminal: himalia job outputs {job_id} --to DIR",
            code=error.code,
        ) from None
    return fetched, told(fetched)


def told(fetched: Fetched) -> str:
    """What was put where, for a notification."""
    where = _short(fetched.folder)
    parts = []
    if fetched.written:
        parts.append(f"{_names(fetched.written)} put into {where}.")
    if fetched.unchanged:
        parts.append(f"{_names(fetched.unchanged)} there already.")
    if fetched.kept:
        parts.append(f"Kept yours, since edited: {', '.join(fetched.kept[:3])}{' …' if len(fetched.kept) > 3 else ''}.")
    return " ".join(parts) or "This job has no outputs."


def _names(paths: list[str]) -> str:
    return paths[0] if len(paths) == 1 else f"{len(paths)} files"


def _short(folder: Path) -> str:
    home = os.path.expanduser("~")
    text = str(folder)
    return "~" + text.removeprefix(home) if text == home or text.startswith(f"{home}/") else text
