"""A workspace, from its first start to its end: what stays, what goes, what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from platform_fixture import Person, Platform, until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

Make = Callable[..., Person]

#: A package made on the spot and installed by apt, so that the test needs no mirror.
PACKAGE = """
set -e
mkdir -p /tmp/pkg/DEBIAN /tmp/pkg/usr/bin
printf 'Package: moonrise\\nVersion: 1\\nArchitecture: all\\nMaintainer: a\\nDescription: a\\n' > /tmp/pkg/DEBIAN/control
printf '#!/bin/sh\\necho risen\\n' > /tmp/pkg/usr/bin/moonrise
chmod 755 /tmp/pkg/usr/bin/moonrise
dpkg-deb --build /tmp/pkg /tmp/moonrise.deb
sudo apt-get install -y /tmp/moonrise.deb
"""


def control(ada: Person, method: str, path: str, **options: object) -> httpx.Response:
    """The control plane's API as this person's programs use it."""
    place = ada.platform.home.place
    url = f"{place.control_url}/services/himalia/api/v1{path}"
    return httpx.request(
        method, url, headers={"Authorization": f"token {ada.token}"}, timeout=60, trust_env=False, **options
    )


def workspace(ada: Person, name: str = "") -> dict[str, object]:
    found = control(ada, "GET", "/workspaces").json()["items"]
    return next(w for w in found if w["name"] == name)


def saved(ada: Person, name: str) -> dict[str, object]:
    """Save the default workspace and wait until it is."""
    answer = control(ada, "POST", f"/workspaces/{ada.plan()['workspace_id']}/environments", json={"name": name})
    assert answer.status_code == 202, answer.text
    version = answer.json()

    def over() -> dict[str, object] | None:
        found = control(ada, "GET", f"/environments/{ada.name}/{name}/versions/{version['number']}").json()
        return found if found["phase"] in ("Saved", "Failed") else None

    found = until(over, f"{name} saved", 240)
    assert found["phase"] == "Saved", found
    return found


def scopes_of(ada: Person) -> set[str]:
    """What the token in the workspace may do, as the hub sees it."""
    token = ada.environment()["JUPYTERHUB_API_TOKEN"]
    answer = httpx.get(f"{ada.platform.hub_api}/user", headers={"Authorization": f"token {token}"}, trust_env=False)
    assert answer.status_code == 200, answer.text
    return set(answer.json()["scopes"])


def page_scopes(ada: Person) -> set[str]:
    """What a browser's login at the workspace is allowed to carry: the OAuth client's scopes in the hub's database."""
    import sqlite3

    with sqlite3.connect(f"file:{ada.platform.home.path / 'hub' / 'jupyterhub.sqlite'}?mode=ro", uri=True) as db:
        row = db.execute(
            "select allowed_scopes from oauth_clients where identifier = ?", (f"jupyterhub-user-{ada.name}",)
        ).fetchone()
    db.close()
    return set(json.loads(row[0]))


def test_a_person_logs_in_starts_from_the_page_and_finds_what_apt_installed_after_a_stop(person: Make):
    ada = person()
    assert ada.login().url.path == "/hub/home"
    page = ada.session.get(f"{ada.platform.url}/hub/spawn")
    (base,) = re.findall(r'value="(himalia/base:\d+)" checked', page.text)
    assert ada.submit(page, {"environment": base, "machine": "small"}).status_code == 200
    until(lambda: ada.server().get("ready"), "the workspace is ready", 180)
    ada.run("bash", "-c", PACKAGE)
    ada.run("bash", "-c", "echo mine > ~/notes")
    before = ada.container().id
    ada.stop()
    ada.start()
    assert ada.container().id == before
    assert ada.run("moonrise").strip() == "risen"
    assert ada.run("cat", "notes").strip() == "mine"


@pytest.mark.parametrize("path", ["", "/{name}", "/{name}/second"])
def test_a_link_with_options_ticks_them_and_starts_nothing(person: Make, path: str):
    ada = person()
    ada.login()
    page = ada.session.get(f"{ada.platform.url}/hub/spawn{path.format(name=ada.name)}?opt-machine=medium&environment=x")
    assert page.status_code == 200
    assert re.search(r'name="machine" value="medium" checked', page.text)
    assert not [
        server for server in ada.hub("GET", f"/users/{ada.name}").json()["servers"].values() if server["pending"]
    ]
    assert ada.platform.state(ada.name, "") == {}


def test_no_token_and_nothing_of_ours_is_in_the_container(person: Make):
    ada = person()
    ada.start()
    attributes = ada.container().attrs
    names = {line.partition("=")[0] for line in attributes["Config"]["Env"]}
    assert names == {"PATH", "LANG"}
    whole = json.dumps(attributes)
    token = ada.environment()["JUPYTERHUB_API_TOKEN"]
    secrets = {path.read_text().strip() for path in (ada.platform.home.path / "secrets").iterdir()}
    assert not [secret for secret in {token, *secrets} if secret in whole]
    assert ada.run("bash", "-c", "touch /run/himalia/workspace/x 2>/dev/null || echo read-only").strip() == "read-only"


def test_scopes_survive_the_second_start_and_the_former_token_is_void(person: Make):
    ada = person()
    ada.start()
    first, token = scopes_of(ada), ada.environment()["JUPYTERHUB_API_TOKEN"]
    page = page_scopes(ada)
    assert f"custom:himalia:jobs:write!user={ada.name}" in first
    assert "custom:himalia:jobs:write!user" in page
    ada.stop()
    ada.start()
    assert scopes_of(ada) == first
    assert page_scopes(ada) == page
    answer = httpx.get(f"{ada.platform.hub_api}/user", headers={"Authorization": f"token {token}"}, trust_env=False)
    assert answer.status_code == 403


def test_the_programs_in_a_workspace_are_logged_in(person: Make):
    ada = person()
    ada.start()
    assert ada.name in ada.run("himalia", "whoami")


def test_a_container_that_runs_behind_the_hubs_back_is_not_trusted(person: Make):
    ada = person()
    ada.start()
    ada.stop()
    container = ada.container()
    container.start()  # as a reboot or somebody's docker start would, with a token the hub has revoked
    container.reload()
    by_hand = container.attrs["State"]["StartedAt"]
    ada.start()
    container.reload()
    assert container.attrs["State"]["StartedAt"] != by_hand
    assert scopes_of(ada)
    activity = "import os, urllib.request as u; r = u.Request(os.environ['JUPYTERHUB_ACTIVITY_URL'], b'{\"last_activity\": \"2026-11-23T00:00:00Z\"}', {'Authorization': 'token ' + os.environ['JUPYTERHUB_API_TOKEN'], 'Content-Type': 'application/json'}); print(u.urlopen(r).status)"
    assert ada.run("/opt/venv/bin/python", "-c", activity).strip() == "200"


def test_a_joined_group_brings_its_folder_and_loses_nothing_that_was_installed(person: Make):
    ada, ben = person("ada"), person("ben")
    ada.start()
    ada.run("bash", "-c", PACKAGE)
    ada.run("bash", "-c", "echo mine > ~/notes")
    before, environment = ada.container().id, ada.plan()["environment"]
    ada.stop()
    group = f"vision-{ada.name}"
    ada.platform.group(group, ada, ben)
    ada.start()
    assert ada.container().id != before
    assert ada.run("moonrise").strip() == "risen"
    assert ada.run("cat", "notes").strip() == "mine"
    ada.run("bash", "-c", f"echo ours > ~/shared/{group}/ours")
    ben.start()
    assert ben.run("cat", f"shared/{group}/ours").strip() == "ours"
    assert workspace(ada)["environment"] == environment
    # who leaves loses the folder, and still nothing else
    ada.stop()
    ada.platform.himalia("groups", "leave", group, ada.name)
    ada.start()
    assert ada.run("bash", "-c", f"ls ~/shared/{group} 2>/dev/null || echo gone").strip() in ("", "gone")
    assert ada.run("moonrise").strip() == "risen"


def test_another_environment_is_refused_and_opens_as_a_workspace_of_its_own(person: Make):
    ada = person()
    ada.start()
    ada.run("bash", "-c", PACKAGE)
    version, environment = saved(ada, "moon"), ada.plan()["environment"]
    ada.stop()
    answer = ada.ask_start(environment=version["ref"])
    assert answer.status_code == 409, answer.text
    assert environment in answer.json()["message"]
    assert "workspace of its own" in answer.json()["message"]
    ada.start("moon", environment=version["ref"])
    assert ada.run("moonrise", name="moon").strip() == "risen"
    assert workspace(ada, "moon")["environment"] == version["ref"]


def test_cpu_and_memory_change_with_the_machine_in_the_same_container(person: Make):
    ada = person()
    ada.start(machine="small")
    before = ada.container()
    ada.stop()
    ada.start(machine="swift")
    after = ada.container()
    assert after.id == before.id
    limits = {name: after.attrs["HostConfig"][name] for name in ("Memory", "MemorySwap", "CpuQuota")}
    assert limits == {"Memory": 3 * 2**30, "MemorySwap": 3 * 2**30, "CpuQuota": 150000}
    assert before.attrs["HostConfig"]["Memory"] == 2 * 2**30
    assert ada.environment()["MEM_LIMIT"] == str(3 * 2**30)
    assert ada.run(
        "bash", "-c", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null || true"
    ).split() == [str(3 * 2**30)]


def test_options_from_the_api_name_no_image(person: Make):
    ada = person()
    answer = ada.ask_start(image="debian:latest")
    assert answer.status_code == 422, answer.text
    assert ada.platform.state(ada.name, "") == {}


def test_a_named_workspace_is_another_machine_with_the_same_home(person: Make):
    ada = person()
    ada.start()
    ada.start("second")
    assert ada.container("second").id != ada.container().id
    ada.run("bash", "-c", "echo mine > ~/notes; sudo touch /opt/here")
    assert ada.run("cat", "notes", name="second").strip() == "mine"
    assert ada.run("bash", "-c", "ls /opt/here 2>/dev/null || echo no", name="second").strip() == "no"


def test_a_workspace_deleted_for_good_does_not_come_back_under_its_name(person: Make):
    ada = person()
    ada.start("short")
    ada.run("sudo", "touch", "/opt/here", name="short")
    ada.run("touch", "kept", name="short")
    plan = ada.plan("short")
    ada.stop("short", remove=True)
    until(lambda: not _named(ada.platform, plan["container"]), "its container is gone")
    until(lambda: not Path(plan["run_folder"]).exists(), "its run folder is gone")
    ada.start("short")
    assert ada.plan("short")["container"] != plan["container"]
    assert ada.run("bash", "-c", "ls /opt/here 2>/dev/null || echo no", name="short").strip() == "no"
    assert ada.run("ls", "kept", name="short").strip() == "kept"


def _named(platform: Platform, name: str) -> bool:
    return any(container.name == name for container in platform.docker.containers.list(all=True))


def test_a_name_given_again_is_another_person_with_another_home(platform: Platform, person: Make):
    ada = person()
    ada.start()
    ada.run("touch", "secret-of-the-first")
    volume = next(m["source"] for m in ada.plan()["mounts"] if m["target"] == "/home/jovyan")
    platform.himalia("users", "remove", ada.name, "--yes")
    assert volume in {entry["volume"] for entry in json.loads((platform.home.path / "trash.json").read_text())}
    assert volume in {v.name for v in platform.labelled("home", "volumes")}
    second = platform.person(ada.name)
    second.start()
    assert next(m["source"] for m in second.plan()["mounts"] if m["target"] == "/home/jovyan") != volume
    assert second.run("ls").strip() == ""


def test_a_server_that_dies_is_said_to_have_died_and_starts_again(person: Make):
    ada = person()
    ada.start()
    ada.run("sudo", "touch", "/opt/here")
    ada.container().kill("SIGKILL")
    found = until(lambda: (w := workspace(ada)) and w["status"] == "Failed" and w, "the workspace is Failed", 60)
    assert found["reason_code"] == "server_failed"
    assert "exit code 137" in found["reason_message"]
    ada.start()
    assert ada.run("ls", "/opt/here").strip() == "/opt/here"
