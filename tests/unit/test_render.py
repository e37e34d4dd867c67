"""A workload as a container body, whole."""

from __future__ import annotations

from pathlib import Path

from himalia_services.engines.docker import render
from himalia_services.engines.docker.render import Site
from himalia_services.model.workload import Image, Input, Mount, Resources, Workload, WorkloadId

SITE = Site(
    instance="1a2b3c4d-0000-4000-8000-000000000000",
    prefix="himalia-1a2b3c4d",
    network="himalia-1a2b3c4d",
    runs=Path("/srv/himalia/run/workloads"),
)
IMAGE = Image(repository="env/ada/env-1", digest="sha256:" + "d" * 64, config_digest="sha256:" + "c" * 64)


def test_a_job_has_its_folder_over_home_and_nothing_of_ours_in_env() -> None:
    job = Workload(
        id=WorkloadId("job-0123456789ab-a1"),
        image=IMAGE,
        verb="job",
        spec={"argv": ["python", "train.py"]},
        resources=Resources(cpu=1.5, memory_bytes=2 << 30, shm_bytes=1 << 30),
        mounts=(
            Mount(source="himalia-1a2b3c4d-home-p-1", target="/home/jovyan"),
            Mount(source="himalia-1a2b3c4d-home-p-1", target="/run/himalia/live/home"),
            Mount(source="himalia-1a2b3c4d-group-1", target="/data", read_only=True),
        ),
        input=Input(pack=Path("/somewhere"), path="/home/jovyan/project"),
        labels={"himalia.job": "job-0123456789ab"},
    )
    own = {
        "himalia.instance": "1a2b3c4d-0000-4000-8000-000000000000",
        "himalia.kind": "workload",
        "himalia.workload": "job-0123456789ab-a1",
        "himalia.worker": "0",
    }
    home = {
        "Type": "volume",
        "Source": "himalia-1a2b3c4d-home-p-1",
        "ReadOnly": False,
        "VolumeOptions": {"NoCopy": True},
    }
    folder = {
        "Type": "volume",
        "Source": "himalia-1a2b3c4d-job-0123456789ab-a1-r0",
        "ReadOnly": False,
        "VolumeOptions": {"NoCopy": True, "Labels": own},
    }
    assert render.container(SITE, job, 0, "sha256:ccc") == {
        "Image": "sha256:ccc",
        "Entrypoint": ["/opt/himalia/bin/himalia-run"],
        "Cmd": ["job"],
        "Env": [],
        "User": "0:0",
        "WorkingDir": "/",
        "Hostname": "job-0123456789ab-a1",
        "Tty": False,
        "OpenStdin": False,
        "AttachStdin": False,
        "AttachStdout": False,
        "AttachStderr": False,
        "Healthcheck": {"Test": ["NONE"]},
        "Labels": {"himalia.job": "job-0123456789ab", **own},
        "HostConfig": {
            "Mounts": [
                {
                    "Type": "bind",
                    "Source": "/srv/himalia/run/workloads/job-0123456789ab-a1/0",
                    "Target": "/run/himalia/workload",
                    "ReadOnly": False,
                },
                {**home, "Target": "/home/jovyan"},
                {**home, "Target": "/run/himalia/live/home"},
                {
                    "Type": "volume",
                    "Source": "himalia-1a2b3c4d-group-1",
                    "Target": "/data",
                    "ReadOnly": True,
                    "VolumeOptions": {"NoCopy": True},
                },
                {**folder, "Target": "/home/jovyan/project"},
                {**folder, "Target": "/run/himalia/input"},
            ],
            "Tmpfs": {},
            "NetworkMode": "himalia-1a2b3c4d",
            "Memory": 2 << 30,
            "MemorySwap": 2 << 30,
            "CpuPeriod": 100_000,
            "CpuQuota": 150_000,
            "PidsLimit": 4096,
            "ShmSize": 1 << 30,
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "1"}},
            "RestartPolicy": {"Name": "no"},
            "CapDrop": ["AUDIT_WRITE", "MKNOD", "NET_RAW", "SYS_CHROOT"],
            "Init": False,
            "Privileged": False,
        },
    }


def test_a_boot_check_has_no_network_no_home_and_no_input() -> None:
    check = Workload(
        id=WorkloadId("boot-0123456789ab"),
        image=IMAGE,
        verb="boot-check",
        spec={},
        resources=Resources(cpu=1, memory_bytes=1 << 30, pids=512),
        network="none",
        home="tmpfs",
    )
    body = render.container(SITE, check, 0, "sha256:ccc")
    host = body["HostConfig"]
    assert body["Cmd"] == ["boot-check"]
    assert host["NetworkMode"] == "none"
    assert host["Tmpfs"] == {"/home/jovyan": "rw,exec,nosuid,nodev,size=1g,mode=0755,uid=1000,gid=1000"}
    assert [mount["Target"] for mount in host["Mounts"]] == ["/run/himalia/workload"]
    assert host["PidsLimit"] == 512


def test_workers_have_names_folders_and_volumes_of_their_own() -> None:
    job = Workload(
        id=WorkloadId("job-0123456789ab-a2"),
        image=IMAGE,
        verb="job",
        spec={},
        resources=Resources(cpu=0.001, memory_bytes=1),
        input=Input(pack=None, path="/job/work"),
        count=2,
    )
    bodies = [render.container(SITE, job, k, "x") for k in (0, 1)]
    assert [render.name(SITE, job.id, k) for k in (0, 1)] == [
        "himalia-1a2b3c4d-job-0123456789ab-a2-r0",
        "himalia-1a2b3c4d-job-0123456789ab-a2-r1",
    ]
    assert [body["Hostname"] for body in bodies] == ["job-0123456789ab-a2-r0", "job-0123456789ab-a2-r1"]
    assert [body["HostConfig"]["Mounts"][0]["Source"].rsplit("/", 1)[1] for body in bodies] == ["0", "1"]
    assert [body["HostConfig"]["Mounts"][1]["Source"] for body in bodies] == [
        render.name(SITE, job.id, k) for k in (0, 1)
    ]
    assert bodies[0]["HostConfig"]["CpuQuota"] == 1000, "Docker takes no smaller quota"


def test_a_label_of_a_workload_never_replaces_ours() -> None:
    job = Workload(
        id=WorkloadId("job-1-a1"),
        image=IMAGE,
        verb="job",
        spec={},
        resources=Resources(cpu=1, memory_bytes=1),
        labels={"himalia.instance": "another"},
    )
    assert render.container(SITE, job, 0, "x")["Labels"]["himalia.instance"] == SITE.instance


def test_a_new_volume_is_made_with_its_labels_by_a_container_that_never_starts() -> None:
    assert render.preparation("v", "himalia/empty:1", {"himalia.kind": "home", "himalia.instance": "i"}) == {
        "Image": "himalia/empty:1",
        "Cmd": ["never-started"],
        "Labels": {"himalia.kind": "preparation", "himalia.instance": "i"},
        "HostConfig": {
            "NetworkMode": "none",
            "Mounts": [
                {
                    "Type": "volume",
                    "Source": "v",
                    "Target": "/run/himalia/input",
                    "ReadOnly": False,
                    "VolumeOptions": {
                        "NoCopy": True,
                        "Labels": {"himalia.kind": "home", "himalia.instance": "i"},
                    },
                }
            ],
        },
    }
