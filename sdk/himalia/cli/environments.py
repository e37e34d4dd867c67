"""`himalia env`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.markup import escape

from himalia import schema
from himalia.cli.output import AsJson, ago, emit, facts, say, status, table
from himalia.cli.progress import Progress
from himalia.cli.workspaces import Yes
from himalia.client import Himalia, connect
from himalia.environment import split_ref
from himalia.errors import Invalid
from himalia.pack import size
from himalia.schema import Version
from himalia.workspace import Workspace

app = typer.Typer(help="Environments: saved workspaces with a name and versions.", no_args_is_help=True)

Ref = Annotated[str, typer.Argument(metavar="ENVIRONMENT", help="vision (yours), ada/vision or ada/vision:3.")]


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """What you may use: yours, what is shared with you, what the operator offers."""
    with connect() as client:
        found = [environment.info for environment in client.environments.list()]
    if as_json:
        emit(found)
        return
    rows = [
        (
            escape(e.ref),
            _newest(e.latest),
            _shared(e),
            ago(e.latest.saved_at if e.latest else None),
            escape(e.description),
        )
        for e in found
    ]
    table(
        ("environment", "newest", "shared with", "saved", "description"),
        rows,
        "There is no environment yet. In a workspace: himalia env save NAME",
    )


def _newest(version: Version | None) -> str:
    return str(version.number) if version else "-"


def _shared(environment: schema.Environment) -> str:
    if environment.preset or environment.visibility == "everyone":
        return "everyone"
    if environment.visibility == "group":
        return f"group {escape(environment.group or '')}"
    return escape(", ".join(environment.people)) or environment.visibility


@app.command()
def show(ref: Ref, as_json: AsJson = False) -> None:
    """One environment and its versions, or with a number one version."""
    with connect() as client:
        name = client.environments.resolve(ref)
        if split_ref(name)[2] is not None:
            _show_version(client.environments.version(name), as_json)
            return
        info = client.environments.get(name).info
    if as_json:
        emit(info)
        return
    facts(
        [
            ("environment", escape(info.ref)),
            ("description", escape(info.description)),
            ("shared with", _shared(info)),
            ("note", escape(info.runs_as_you)),
        ]
    )
    rows = [
        (
            str(v.number),
            status(v.phase),
            size(v.size_bytes) if v.size_bytes is not None else "",
            ago(v.saved_at),
            escape(v.note or v.reason_message),
        )
        for v in info.versions
    ]
    table(("version", "phase", "added", "saved", "note"), rows, "It has no version yet.")


def _show_version(version: Version, as_json: bool) -> None:
    if as_json:
        emit(version)
        return
    facts(
        [
            ("version", escape(version.ref)),
            (
                "phase",
                status(version.phase) + (f"  {escape(version.reason_message)}" if version.reason_message else ""),
            ),
            ("digest", version.digest or ""),
            ("made from", escape(version.parent_ref or "")),
            ("added", size(version.size_bytes) if version.size_bytes is not None else ""),
            ("layers", str(version.layers or "")),
            ("saved", ago(version.saved_at)),
            ("note", escape(version.note)),
            ("warnings", escape("; ".join(version.warnings))),
        ]
    )


@app.command()
def save(
    name: Annotated[str, typer.Argument(help="The environment's name, as in vision.")],
    note: Annotated[str, typer.Option(help="What is in it, for people.")] = "",
    workspace: Annotated[
        str | None, typer.Option("--workspace", "-w", help="Which workspace; the one you are in by default.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is Saved.")] = True,
    as_json: AsJson = False,
) -> None:
    """Save a workspace as the next version of an environment. Home and group folders are no part of it."""
    with connect() as client, Progress(quiet=as_json) as progress:
        source = _workspace(client, workspace)
        version = source.save(name, note=note, wait=wait, progress=lambda v: progress.step(v.phase, _detail(v)))
    if as_json:
        emit(version)
        return
    for warning in version.warnings:
        say(f"Warning: {warning}")
    if wait:
        say(
            f"{version.ref} is Saved. Share it: himalia env share {version.environment} --group GROUP. Run in it: himalia job submit SCRIPT -e {version.owner}/{version.environment}"
        )
    else:
        say(f"{version.ref} is being saved. How far it is: himalia env show {version.ref}")


def _workspace(client: Himalia, name: str | None) -> Workspace:
    if name is not None:
        return client.workspaces.get("" if name in ("default", "(default)") else name)
    if client.environ.get("HIMALIA_WORKSPACE"):
        return client.workspaces.current()
    return client.workspaces.get("")


def _detail(version: Version) -> str:
    done = size(version.progress_bytes) if version.progress_bytes else ""
    return " · ".join(part for part in (version.progress_message, done, version.reason_message) if part)


@app.command()
def share(
    ref: Ref,
    group: Annotated[str | None, typer.Option(help="A group you are in.")] = None,
    person: Annotated[list[str] | None, typer.Option("--person", help="Somebody's name; may be given again.")] = None,
    everyone: Annotated[bool, typer.Option("--everyone", help="Everybody on this platform.")] = False,
    private: Annotated[bool, typer.Option("--private", help="Nobody but you any more.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say who else may use an environment. Its programs run as whoever starts it."""
    people: Sequence[str] = person or ()
    if bool(group) + bool(people) + everyone + private != 1:
        raise Invalid("Say with whom: one of --group NAME, --person NAME, --everyone, --private.", code="invalid")
    with connect() as client:
        environment = client.environments.get(ref)
        shared = environment.unshare() if private else environment.share(group=group, people=people, everyone=everyone)
    if as_json:
        emit(shared.info)
    elif private:
        say(f"{shared.ref} is private again. What runs in it already goes on.")
    else:
        say(
            f"{shared.ref} is shared with {_shared(shared.info)}. Programs in it run as whoever starts it, and they are told so."
        )


@app.command()
def delete(ref: Ref, yes: Yes = False, as_json: AsJson = False) -> None:
    """Delete an environment, or one version of it. Refused while something uses it."""
    with connect() as client:
        name = client.environments.resolve(ref)
        environment = client.environments.get(name)
        if not yes and not as_json:
            typer.confirm(f"Delete {name} for ever?", abort=True, err=True)
        environment.delete(split_ref(name)[2])
    if as_json:
        emit({"deleted": name})
    else:
        say(f"{name} is deleted.")


@app.command()
def packages(ref: Ref, as_json: AsJson = False) -> None:
    """What is installed in an environment: its newest version, or the one you name."""
    with connect() as client:
        name = client.environments.resolve(ref)
        found = client.environments.get(name).packages(split_ref(name)[2])
    if as_json:
        emit(found)
        return
    rows = [
        (manager, escape(p.name), escape(p.version))
        for manager, listed in (("pip", found.pip), ("conda", found.conda), ("dpkg", found.dpkg))
        for p in listed
    ]
    table(("by", "package", "version"), rows, "No list of packages was kept for it.")
