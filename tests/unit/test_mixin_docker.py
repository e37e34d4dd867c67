"""What a plan becomes on Docker, and when a container that is there does not fit it."""

from pathlib import Path

import pytest

from himalia_spawner import docker
from scripted_control import plan

HOME = Path("/somewhere")


def container(**changes: object) -> dict[str, object]:
    """What inspect says of a container made from `plan`."""
    return {
        "Config": {"Labels": docker.labels(plan(HOME))},
        "HostConfig": {"CpuPeriod": 100000, "CpuQuota": 150000, "Memory": 2**30, "MemorySwap": 2**30},
        "Mounts": [{"Destination": "/run/himalia/workspace", "Source": plan(HOME)["run_folder"]}],
    } | changes


def test_limits_are_period_quota_and_memory_without_swap():
    assert docker.limits({"cpu": 1.5, "memory_bytes": 2**30}) == {
        "cpu_period": 100000,
        "cpu_quota": 150000,
        "mem_limit": 2**30,
        "memswap_limit": 2**30,
    }


def test_a_container_has_the_plans_volumes_and_the_run_folder_read_only():
    assert [dict(mount) for mount in docker.mounts(plan(HOME))] == [
        {
            "Target": "/home/jovyan",
            "Source": "himalia-0badcafe-home-p-00000000000a",
            "Type": "volume",
            "ReadOnly": False,
        },
        {
            "Target": "/home/jovyan/shared/vision",
            "Source": "himalia-0badcafe-group-0123456789abcdef",
            "Type": "volume",
            "ReadOnly": False,
        },
        {
            "Target": "/run/himalia/workspace",
            "Source": "/somewhere/run/workspaces/ws-00000000000a",
            "Type": "bind",
            "ReadOnly": True,
        },
    ]


def test_labels_say_what_a_container_was_made_from():
    assert docker.labels(plan(HOME)) == {
        "himalia.instance": "0badcafe",
        "himalia.kind": "workspace",
        "himalia.workspace": "ws-00000000000a",
        "himalia.image": "sha256:" + "c" * 64,
        "himalia.mounts": "m1",
        "himalia.shm": "67108864",
    }


def test_a_container_made_from_the_plan_fits_it():
    assert not docker.needs_remaking(container(), plan(HOME))
    assert not docker.needs_update(container(), plan(HOME))


@pytest.mark.parametrize(
    "changes",
    [
        {"mounts_hash": "m2"},
        {"machine": plan(HOME)["machine"] | {"shm_bytes": 2**27}},
        {"run_folder": "/elsewhere/run"},
    ],
    ids=["a group joined or left", "another /dev/shm", "another home of the installation"],
)
def test_what_no_update_changes_needs_another_container(changes):
    assert docker.needs_remaking(container(), plan(HOME, **changes))


@pytest.mark.parametrize("change", [{"cpu": 2}, {"memory_bytes": 2**31}])
def test_cpu_and_memory_are_updated_in_place(change):
    other = plan(HOME, machine=plan(HOME)["machine"] | change)
    assert not docker.needs_remaking(container(), other)
    assert docker.needs_update(container(), other)
