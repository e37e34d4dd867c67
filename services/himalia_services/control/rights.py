"""Who may do what with an environment or a workspace. Scopes say which kind of action a token may take; this says on what."""

from __future__ import annotations

import json

from sqlalchemy import ColumnElement, Text, and_, cast, or_

from himalia_services.model.caller import Caller
from himalia_services.model.names import PLATFORM
from himalia_services.store import tables as t


def mine(caller: Caller, row: t.Owned) -> bool:
    """Whether the caller is the very person it belongs to; a name given again is another person."""
    return row.owner_id == caller.person_id


def owns(caller: Caller, row: t.Owned) -> bool:
    """Whether the caller may change it: its owner, and admins."""
    return mine(caller, row) or caller.admin


def preset(environment: t.Environment) -> bool:
    """Whether it is offered by the operator. The platform's own person has no other environments."""
    return environment.owner == PLATFORM and not environment.hidden


def may_use(caller: Caller, environment: t.Environment) -> bool:
    """Whether the caller may see an environment and run it, as of now."""
    if environment.deleted_at is not None:
        return False
    if owns(caller, environment):
        return True
    if environment.hidden:
        return False
    match environment.visibility:
        case "everyone":
            return True
        case "group":
            return environment.group is not None and environment.group in caller.groups
        case "people":
            return caller.name in environment.people
        case _:
            return False


def listed(caller: Caller) -> ColumnElement[bool]:
    """What `may_use` may say yes to, for a query: mine and shared with me. A superset, by spelling of names."""
    e = t.Environment
    return and_(
        e.deleted_at.is_(None),
        e.hidden.is_(False),
        or_(
            e.owner_id == caller.person_id,
            e.visibility == "everyone",
            and_(e.visibility == "group", e.group.in_(list(caller.groups))),
            and_(e.visibility == "people", cast(e.people, Text).contains(json.dumps(caller.name), autoescape=True)),
        ),
    )
