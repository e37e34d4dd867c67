"""`himalia job`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from himalia.cli.output import FAILED, INTERRUPTED, AsJson, ago, emit, facts, say, span, status, table
from himalia.cli.workspaces import Yes
from himalia.client import connect
from himalia.errors import Invalid
from himalia.job import SCRIPTS, Fetched, Job, exit_status
from himalia.pack import Pack, size

app = typer.Typer(
    help="Jobs: a script, notebook or command, run in an environment on the code as it is now.", no_args_is_help=True
)

Id = Annotated[str, typer.Argument(metavar="JOB", help="The job's id, as in job-3f2a9c71d0be.")]


@app.command()
def submit(
    source: Annotated[
        str | None, typer.Argument(help="A script (.py, .sh), a notebook (.ipynb), or a command.")
    ] = None,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- ARGS]...", help="What the script or command gets; put -- before them."),
    ] = None,
    environment: Annotated[
        str | None,
        typer.Option(
            "--environment", "-e", help="vision (yours), ada/vision:3 or a digest; in a workspace its own by default."
        ),
    ] = None,
    machine: Annotated[str | None, typer.Option("--machine", "-m", help="A size, as in small.")] = None,
    command: Annotated[str | None, typer.Option("--command", "-c", help="A line for bash instead of a script.")] = None,
    param: Annotated[
        list[str] | None,
        typer.Option("--param", "-p", metavar="K=V", help="A parameter of the notebook; may be given again."),
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="K=V", help="A variable for the job; may be given again. Not for secrets."),
    ] = None,
    name: Annotated[str, typer.Option(help="What to call it in lists.")] = "",
    max_run: Annotated[str | None, typer.Option(help="How long it may run: 90s, 15m, 2h, 1h30m.")] = None,
    folder: Annotated[Path | None, typer.Option(help="The project folder, when it is not the one found.")] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Leave files out, as .himaliaignore does; may be given again."),
    ] = None,
    upload: Annotated[bool, typer.Option("--upload", help="Pack everything, whatever its size.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait", "-w", help="Stream the log and end with the job's exit code.")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait (this is the default).")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a script, a notebook or a command in an environment, on the code as it is at this moment."""
    if wait and detach:
        raise Invalid("Choose one of --wait and --detach.", code="invalid")
    what = _what(source, arguments or [], command)
    with connect() as client:
        job = client.jobs.submit(
            **what,
            environment=environment,
            machine=machine,
            parameters=dict(map(_parameter, param or [])),
            env=_variables(env or []),
            name=name,
            max_run=max_run,
            folder=folder,
            exclude=exclude or [],
            upload=upload,
            packed=lambda pack: None if as_json else _tell_packed(pack),
        )
        if wait:
            raise typer.Exit(_stay(job, as_json, submitted=True))
    if as_json:
        emit(job.info)
        return
    say(f"{job.id} is {job.status} in {job.info.environment}, on {job.info.machine}.")
    say(
        f"Its log: himalia job logs -f {job.id} · stop it: himalia job stop {job.id} · what it made: himalia job outputs {job.id}"
    )


def _what(source: str | None, arguments: Sequence[str], command: str | None) -> dict[str, Any]:
    """Which of script, notebook and command is meant: by the ending of the first word."""
    if command is not None:
        if source is not None:
            raise Invalid("Give a script or --command, not both.", code="invalid")
        return {"command": command}
    if source is None:
        raise Invalid("Say what to run: himalia job submit train.py, or --command 'make all'.", code="invalid")
    if source.endswith((*SCRIPTS, ".ipynb")) and not Path(source).expanduser().is_file():
        raise Invalid(f"There is no file {source} here.", code="no_such_file")
    if source.endswith(".ipynb"):
        if arguments:
            raise Invalid("A notebook takes parameters: --param name=value.", code="invalid")
        return {"notebook": source}
    if source.endswith(SCRIPTS):
        return {"script": source, "args": arguments}
    return {"command": [source, *arguments]}


def _tell_packed(pack: Pack) -> None:
    for note in pack.notes:
        say(note)
    say(pack.summary())


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise Invalid(f"{text!r} is not of the form name=value.", code="invalid")
    return name, value


def _parameter(text: str) -> tuple[str, Any]:
    name, value = _pair(text)
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _variables(pairs: Sequence[str]) -> Mapping[str, str]:
    return dict(map(_pair, pairs))


def _stay(job: Job, as_json: bool, *, submitted: bool = False) -> int:
    """Stream the log until the job is over; the exit code that stands for its end."""
    stream = sys.stderr if as_json else sys.stdout
    try:
        if submitted and not as_json:
            say(f"{job.id} is {job.status} in {job.info.environment}, on {job.info.machine}.")
        for text in job.logs():
            stream.write(text)
            stream.flush()
        job.wait()
    except KeyboardInterrupt:
        say(f"\n{job.id} goes on. Stop it: himalia job stop {job.id} · back to its log: himalia job logs -f {job.id}")
        return INTERRUPTED
    _tell_end(job, as_json)
    return exit_status(job.info)


def _tell_end(job: Job, as_json: bool) -> None:
    if as_json:
        emit(job.info)
        return
    info = job.info
    took = (
        f" after {span((info.finished_at - info.started_at).total_seconds())}"
        if info.finished_at and info.started_at
        else ""
    )
    say(f"{job.id} {job.status}{took}" + (f": {info.reason_message}" if info.reason_message else "."))
    if info.outputs:
        files = "1 file" if info.outputs == 1 else f"{info.outputs} files"
        say(
            f"It made or changed {files} ({size(info.output_bytes)}). Put them beside the source: himalia job outputs {job.id}"
        )


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many, the newest first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Your jobs, the newest first."""
    with connect() as client:
        found = [job.info for job in client.jobs.list(limit=limit)]
    if as_json:
        emit(found)
        return
    rows = [
        (
            j.id,
            escape(j.display_name or " ".join(j.command))[:60],
            status(j.status),
            escape(j.environment),
            j.machine,
            ago(j.created_at),
        )
        for j in found
    ]
    table(
        ("job", "what", "status", "environment", "machine", "submitted"),
        rows,
        "You have no job yet. himalia job submit train.py -e ENVIRONMENT makes one.",
    )


@app.command()
def show(id: Id, as_json: AsJson = False) -> None:
    """One job."""
    with connect() as client:
        info = client.jobs.get(id).info
    if as_json:
        emit(info)
        return
    place = f"  number {info.queue_position} in the queue" if info.queue_position else ""
    git = (
        f"{info.input.git_commit[:12]}{', edited since' if info.input.git_dirty else ''}"
        if info.input and info.input.git_commit
        else ""
    )
    facts(
        [
            ("job", f"{info.id}  {escape(info.display_name)}"),
            (
                "status",
                status(info.status) + place + (f"  {escape(info.reason_message)}" if info.reason_message else ""),
            ),
            ("exit code", str(info.exit_code) if info.exit_code is not None else ""),
            ("command", escape(" ".join(info.command))),
            ("environment", escape(info.environment)),
            ("digest", info.digest),
            ("machine", info.machine),
            ("folder", escape(info.input.path) if info.input else ""),
            ("works in", escape(info.working_dir)),
            ("git commit", git),
            ("submitted", ago(info.created_at)),
            (
                "ran",
                span((info.finished_at - info.started_at).total_seconds())
                if info.finished_at and info.started_at
                else "",
            ),
            ("outputs", f"{info.outputs} files, {size(info.output_bytes)}" if info.outputs else ""),
        ]
    )


@app.command()
def logs(
    id: Id,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job is over.")] = False,
    as_json: AsJson = False,
) -> None:
    """A job's log, also when it is long over."""
    with connect() as client:
        job = client.jobs.get(id)
        pieces = job.logs(follow=follow)
        if as_json:
            emit({"id": job.id, "log": "".join(pieces)})
            return
        try:
            for text in pieces:
                sys.stdout.write(text)
                sys.stdout.flush()
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None


@app.command()
def wait(id: Id, as_json: AsJson = False) -> None:
    """Stream a job's log until it is over, and end with its exit code."""
    with connect() as client:
        raise typer.Exit(_stay(client.jobs.get(id), as_json))


@app.command()
def stop(
    id: Id,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is over.")] = True,
    as_json: AsJson = False,
) -> None:
    """Stop a job: it is asked to end, and killed when it does not."""
    with connect() as client:
        job = client.jobs.get(id).stop()
        if wait:
            job.wait()
    if as_json:
        emit(job.info)
    else:
        say(f"{job.id} is {job.status}.")


@app.command()
def delete(id: Id, yes: Yes = False, as_json: AsJson = False) -> None:
    """Delete a job that is over, its log and its outputs."""
    with connect() as client:
        job = client.jobs.get(id)
        if not yes and not as_json:
            typer.confirm(f"Delete {job.id}, its log and its outputs?", abort=True, err=True)
        job.delete()
    if as_json:
        emit({"deleted": job.id})
    else:
        say(f"{job.id} is deleted.")


@app.command()
def outputs(
    id: Id,
    to: Annotated[Path | None, typer.Option("--to", help="Where they go; beside the source by default.")] = None,
    list_only: Annotated[bool, typer.Option("--list", help="Only say which there are.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Also over files that you edited since.")] = False,
    as_json: AsJson = False,
) -> None:
    """Put the files a job made or changed back beside the source. What you edited since the submit is kept."""
    with connect() as client:
        job = client.jobs.get(id)
        if list_only:
            _list_outputs(job, as_json)
            return
        fetched = job.fetch_outputs(to, force=force)
    if as_json:
        emit(
            {
                "folder": str(fetched.folder),
                "written": fetched.written,
                "unchanged": fetched.unchanged,
                "kept": fetched.kept,
            }
        )
    else:
        _tell_fetched(fetched)
    if fetched.kept:
        raise typer.Exit(FAILED)


def _list_outputs(job: Job, as_json: bool) -> None:
    found = job.outputs.list()
    if as_json:
        emit(found)
        return
    table(
        ("file", "size", ""),
        [(escape(o.path), size(o.size_bytes), o.change) for o in found],
        f"{job.id} made and changed no file.",
    )


def _tell_fetched(fetched: Fetched) -> None:
    for path in fetched.written:
        say(f"{fetched.folder / path}")
    for path in fetched.kept:
        say(f"kept yours, edited since the submit: {fetched.folder / path}")
    if fetched.kept:
        say("--force takes the job's files instead; --to DIR puts them elsewhere.")
    if not fetched.written and not fetched.kept:
        say("Everything is here already." if fetched.unchanged else "The job made and changed no file.")
