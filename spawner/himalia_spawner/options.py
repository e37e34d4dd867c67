"""What a person chooses when a workspace starts: an environment and a machine, from the spawn page, a link or the API."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from himalia_spawner.refusal import NotStarted

FIELDS = ("environment", "machine")
LONGEST = 400  # an owner, a name and a digest fit


def chosen(options: Mapping[str, Any]) -> dict[str, str]:
    """The options a start may use, or NotStarted: they may come from anywhere and are kept between starts."""
    unknown = sorted(str(name) for name in set(options) - set(FIELDS))
    if unknown:
        raise NotStarted(
            f"A workspace has no option {', '.join(unknown)[:80]}; it takes environment and machine.",
            reason="unknown_option",
            status_code=422,
        )
    for name, value in options.items():
        if not isinstance(value, str) or len(value) > LONGEST:
            raise NotStarted(f"The option {name} must be a short text.", reason="invalid_option", status_code=422)
    return {name: value for name, value in options.items() if value}


def from_form(form: Mapping[str, list[Any]]) -> dict[str, str]:
    """The fields of the spawn page; what is left empty is not chosen."""
    values = {name: form.get(name, [""])[-1] for name in FIELDS}
    return {name: value.strip() for name, value in values.items() if isinstance(value, str) and value.strip()}


@dataclass(frozen=True)
class Choice:
    """One line of the spawn page."""

    value: str
    title: str
    detail: str
    caution: str = ""


def size(count: int) -> str:
    """Bytes as people say them."""
    for unit, step in (("GiB", 2**30), ("MiB", 2**20)):
        if count >= step:
            return f"{count / step:.3g} {unit}"
    return f"{count} bytes"


def environments(offer: Mapping[str, Any]) -> list[tuple[str, list[Choice]]]:
    """The environments by group: offered here, mine, shared with me; empty groups are left out."""
    found: dict[str, list[Choice]] = {"Offered here": [], "Mine": [], "Shared with me": []}
    for item in offer["environments"]:
        group = "Offered here" if item.get("preset") else "Mine" if item.get("mine") else "Shared with me"
        latest = item.get("latest") or {}
        value = latest.get("ref") or item["ref"]
        detail = latest.get("note") or item.get("description") or ""
        found[group].append(Choice(value, value, detail, item.get("runs_as_you") or ""))
    return [(title, choices) for title, choices in found.items() if choices]


def machines(offer: Mapping[str, Any]) -> list[Choice]:
    return [
        Choice(m["name"], m.get("display_name") or m["name"], f"{m['cpu']:g} CPU, {size(m['memory_bytes'])} memory")
        for m in offer["machines"]
    ]


def selected(wanted: str, fallback: str, choices: Iterable[Choice]) -> str:
    """What is ticked when the page opens: what the link asked for when it is offered, else what the control plane proposes."""
    values = [choice.value for choice in choices]
    named = {value: value for value in values} | {value.rpartition(":")[0]: value for value in values if ":" in value}
    return named.get(wanted) or named.get(fallback) or (values[0] if values else "")


def render(offer: Mapping[str, Any] | None, wanted: Mapping[str, str]) -> str:
    """The inside of the form on the spawn page. `offer` is None when the control plane does not answer."""
    template = _templates().get_template("options.html")
    if offer is None:
        return template.render(away=True)
    groups, sizes = environments(offer), machines(offer)
    flat = [choice for _, choices in groups for choice in choices]
    return template.render(
        groups=groups,
        machines=sizes,
        environment=selected(wanted.get("environment", ""), offer.get("environment") or "", flat),
        machine=selected(wanted.get("machine", ""), offer.get("machine") or "", sizes),
        missing=wanted.get("environment", "") if not _offered(wanted.get("environment", ""), flat) else "",
        locked=offer.get("locked") or "",
    )


def _offered(ref: str, choices: Iterable[Choice]) -> bool:
    return not ref or any(ref in (choice.value, choice.value.rpartition(":")[0]) for choice in choices)


@cache
def _templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
