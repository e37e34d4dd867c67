"""The builder of images, against a scripted docker: what is built when, what people are told, what never leaves."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
import sys
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "images"))
import build  # noqa: E402

DOCKER = """#!{python} -I
import json, os, sys
from pathlib import Path
here = Path({folder!r})
calls = here / "calls"
argv = sys.argv[1:]
with open(calls, "a") as log:
    log.write(json.dumps(argv) + "\\n")
images = here / "images"
images.mkdir(exist_ok=True)

def known(tag):
    return images / tag.replace("/", "_")

def make(tag):
    known(tag).write_text(tag)

if (here / "away").exists():
    sys.exit("Cannot connect to the Docker daemon")
if argv[:2] == ["image", "ls"]:
    for tag in sorted(image.read_text() for image in images.iterdir()):
        print(tag, "sha256:" + tag.partition(":")[2])
elif argv[0] == "build":
    context = sys.stdin.buffer.read()
    tag = argv[argv.index("--tag") + 1]
    (here / (tag.replace("/", "_").partition(":")[0] + ".tar")).write_bytes(context)
    for word in argv:
        name, _, value = word.partition("=")
        if value.startswith("himalia/") and not known(value).exists():
            sys.exit("it stands on nothing: " + value)
    assert os.environ["DOCKER_BUILDKIT"] == "0"
    if (here / "fails").exists() and (here / "fails").read_text() in tag:
        for line in range(100):
            print("line", line)
        sys.exit(3)
    make(tag)
elif argv[0] == "pull":
    if (here / "no-registry").exists():
        import time
        time.sleep(60)
    print("pulling")
    make(argv[1])
elif argv[0] == "import":
    sys.stdin.buffer.read()
    make(argv[-1])
elif argv[0] == "tag":
    make(argv[2])
elif argv[0] == "--config":
    config = Path(argv[1])
    (here / "pushed").write_text(json.dumps([oct(config.stat().st_mode & 0o777), (config / "config.json").read_text(), argv[-1]]))
elif argv[0] == "rmi":
    known(argv[1]).unlink()
"""


@pytest.fixture(autouse=True)
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small checkout of its own: the real one may be edited while a test runs."""
    folder = tmp_path / "tree"
    for name in ("pyproject.toml", "README.md", "sdk/himalia/schema.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    for name in ("README.md", "pyproject.toml", "package.json", "package-lock.json", "src/index.ts"):
        (folder / "extensions/lab" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "extensions/lab" / name).write_text("x")
    monkeypatch.setattr(build, "REPOSITORY", folder)
    return folder


@dataclass(frozen=True)
class Docker:
    """A docker command that remembers what it was asked and keeps images as names."""

    folder: Path

    def calls(self, verb: str) -> list[list[str]]:
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [call for call in map(json.loads, lines) if call[0] == verb]

    def built(self) -> list[str]:
        return [call[call.index("--tag") + 1].partition(":")[0] for call in self.calls("build")]

    def fail(self, tag: str) -> None:
        (self.folder / "fails").write_text(tag)


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Docker:
    folder = tmp_path / "docker"
    folder.mkdir()
    command = folder / "docker"
    command.write_text(DOCKER.format(python=sys.executable, folder=str(folder)))
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return Docker(folder)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def run(home: Path, *options: str) -> int:
    return build.main(["--home", str(home), *options])


def read(home: Path, name: str) -> dict:
    return json.loads((home / "images" / name).read_text())


def test_everything_is_built_once_parents_first(docker: Docker, home: Path) -> None:
    assert run(home) == 0
    built = docker.built()
    assert sorted(built) == sorted(
        [
            *("himalia/root", "himalia/registry", "himalia/base"),
            *(f"himalia/build-{n}" for n in ("system", "python", "lab", "code", "venv", "extension", "body")),
        ]
    )
    plan = build.stages()
    assert read(home, "built.json") == {
        name: {
            "tag": plan[name].tag, "image_id": f"sha256:{plan[name].hash}", "repository": f"himalia/{name}", "digest": "", "config_digest": "",
        }
        for name in ("registry", "base")
    }  # fmt: skip
    assert not (home / "images/progress.json").exists()
    assert run(home) == 0
    assert docker.built() == built


def test_the_registry_needs_nothing_of_the_base_image(docker: Docker, home: Path) -> None:
    assert run(home, "--only", "registry") == 0
    assert docker.built() == ["himalia/root", "himalia/registry"]
    assert list(read(home, "built.json")) == ["registry"]


def test_an_image_that_is_there_needs_none_of_what_it_stands_on(docker: Docker, home: Path) -> None:
    run(home)
    for image in (docker.folder / "images").iterdir():
        if not image.name.startswith(("himalia_base", "himalia_registry")):
            image.unlink()
    before = docker.built()
    assert run(home) == 0
    assert docker.built() == before


def test_a_failed_build_leaves_a_sentence_and_the_end_of_the_log(
    docker: Docker, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    docker.fail("build-python")
    assert run(home) == 1
    error = read(home, "progress.json")["error"].splitlines()
    log = home / "images/build-python.log"
    assert error[0] == f"Building CPython failed: docker build ended with 3. The whole log is {log}."
    assert error[1:] == [f"line {number}" for number in range(60, 100)]
    assert "Building CPython failed" in capsys.readouterr().err
    assert "himalia/build-lab" not in docker.built()
    assert not (home / "images/built.json").exists()
    (docker.folder / "fails").unlink()
    assert run(home) == 0
    assert not (home / "images/progress.json").exists()


def test_an_engine_that_does_not_answer_is_a_sentence(docker: Docker, home: Path) -> None:
    (docker.folder / "away").write_text("")
    assert run(home) == 1
    assert read(home, "progress.json")["error"] == "docker image failed: Cannot connect to the Docker daemon"


def test_progress_counts_the_steps_of_the_image(docker: Docker, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict] = []
    write = build.write

    def watch(path: Path, content: object) -> None:
        if path.name == "progress.json":
            assert isinstance(content, dict)
            seen.append(dict(content))
        write(path, content)

    monkeypatch.setattr(build, "write", watch)
    assert run(home) == 0
    base = [state for state in seen if state["image"] == "base"]
    assert {state["steps"] for state in base} == {8}
    assert [state["step"] for state in base] == sorted(state["step"] for state in base)
    assert base[-1]["step"] == 8
    assert base[-2]["message"] == "Adding Himalia"
    assert set(base[0]) == {"image", "step", "steps", "message", "started_at", "error"}
    assert datetime.fromisoformat(base[0]["started_at"]) <= datetime.now(UTC)


def test_what_was_hashed_is_what_is_sent(docker: Docker, home: Path) -> None:
    run(home, "--only", "registry")
    stage = build.stages()["root"]
    with tarfile.open(docker.folder / "himalia_root.tar") as sent:
        assert [(file.path, file.mode) for file in stage.files] == [(entry.name, entry.mode) for entry in sent]
        names = sent.getnames()
    assert "files/usr/local/lib/himalia-sources" in names
    assert "Dockerfile" in names


def test_where_packages_come_from_changes_no_image_and_is_in_no_argv(
    docker: Docker, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = build.stages()["base"].hash
    monkeypatch.setenv("PIP_INDEX_URL", "https://reader:secret@packages.example/simple")
    monkeypatch.setenv("https_proxy", "http://user:secret@proxy.example")
    assert build.stages()["base"].hash == before
    assert run(home) == 0
    calls = docker.calls("build")
    assert "secret" not in json.dumps(calls)
    given = {call[call.index("--tag") + 1].partition(":")[0]: call for call in calls}
    assert "PIP_INDEX_URL" in given["himalia/build-lab"]
    assert "PIP_INDEX_URL" not in given["himalia/base"], "it would stay in the image's history"
    assert "https_proxy" in given["himalia/root"]


def test_a_mirror_and_a_certificate_change_every_image() -> None:
    plain = build.stages({})
    mirrored = build.stages({"HIMALIA_APT_MIRROR": "http://mirror.example/debian"})
    assert {name for name in plain if plain[name].hash != mirrored[name].hash} == set(plain) - {"rootfs"}


def test_an_edit_of_the_sdk_changes_the_last_stage_only(tree: Path) -> None:
    before = build.stages({})
    (tree / "sdk/himalia/__init__.py").write_text("x = 1")
    after = build.stages({})
    assert {name for name in before if before[name].hash != after[name].hash} == {"base"}


def test_what_builds_leave_behind_changes_nothing(tree: Path) -> None:
    before = build.stages({})["base"].hash
    for left in ("sdk/himalia/__pycache__/a.pyc", "extensions/lab/node_modules/a.js", "extensions/lab/dist/a.whl"):
        (tree / left).parent.mkdir(exist_ok=True)
        (tree / left).write_text("noise")
    assert build.stages({})["base"].hash == before


@pytest.fixture
def silent(docker: Docker, monkeypatch: pytest.MonkeyPatch) -> Docker:
    (docker.folder / "no-registry").write_text("")
    monkeypatch.setattr(build, "FIRST_WORD", 0.5)
    return docker


def test_without_a_registry_debian_is_made_here(silent: Docker, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    debootstrap = silent.folder / "debootstrap"
    debootstrap.write_text(
        '#!/bin/sh\nfor last; do root=$last; done\nmkdir -p "$root/var/log/apt" "$root/etc"; echo hi > "$root/var/log/apt/x"\n'
    )
    debootstrap.chmod(0o755)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert run(home, "--only", "registry") == 0
    assert [call[-1] for call in silent.calls("import")] == [build.stages()["rootfs"].tag]
    assert not (home / "images/root").exists()


def test_without_a_registry_and_root_one_sentence_says_what_to_do(
    silent: Docker, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert run(home) == 1
    error = read(home, "progress.json")["error"]
    assert len(error.splitlines()) == 1
    assert "sudo make up" in error


def certificate(name: str) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.now(UTC))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host that trusts two public certificates and one of its own."""
    public, local = tmp_path / "public", tmp_path / "local"
    public.mkdir()
    local.mkdir()
    for name in ("one", "two"):
        (public / f"{name}.crt").write_bytes(certificate(name))
    (local / "own.crt").write_bytes(certificate("own"))
    monkeypatch.setattr(build, "PUBLIC_CERTIFICATES", public)
    monkeypatch.setattr(build, "LOCAL_CERTIFICATES", local)
    return tmp_path


def test_a_gateways_certificate_alone_goes_into_the_image(host: Path) -> None:
    gateway = certificate("gateway")
    bundle = host / "bundle.pem"
    everything = [path.read_bytes() for path in (*host.glob("public/*"), *host.glob("local/*"))]
    bundle.write_bytes(b"".join([*everything, gateway]))
    added = build.added_certificates({"SSL_CERT_FILE": str(bundle), "PIP_CERT": str(bundle)})
    own = (host / "local/own.crt").read_bytes()
    assert sorted(pem.strip() for pem in added) == sorted([own.strip(), gateway.strip()])


def test_a_named_file_of_certificates_is_taken_alone(host: Path) -> None:
    named = certificate("named")
    (host / "named.pem").write_bytes(named)
    assert build.added_certificates({"HIMALIA_CA_FILE": str(host / "named.pem")}) == [named.strip()]
    files = build.stages({"HIMALIA_CA_FILE": str(host / "named.pem")})["root"].files
    assert [file.content.strip() for file in files if file.path.endswith(".crt")] == [named.strip()]


MANIFEST = json.dumps({"schemaVersion": 2, "config": {"digest": "sha256:c0"}}).encode()


class Registry(ThreadingHTTPServer):
    """A registry that has an image from its n-th question on."""

    daemon_threads = True
    questions = 0
    has_it_from = 2

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"


class RegistryRequest(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Registry)
        self.server.questions += 1
        auth = base64.b64encode(b"himalia:secret").decode()
        status = 401 if self.headers["Authorization"] != f"Basic {auth}" else 200
        if status == 200 and self.server.questions < self.server.has_it_from:
            status = 404
        self.send_response(status)
        self.send_header("Content-Length", str(len(MANIFEST)))
        self.end_headers()
        self.wfile.write(MANIFEST)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def registry() -> Iterator[Registry]:
    server = Registry(("127.0.0.1", 0), RegistryRequest)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_push_tells_no_argv_its_password(docker: Docker, home: Path, registry: Registry) -> None:
    (home / "secrets").mkdir(parents=True)
    (home / "secrets/registry-password").write_text("secret\n")
    assert run(home, "--only", "base", "--registry", registry.host, "--registry-user", "himalia") == 0
    mode, config, name = json.loads((docker.folder / "pushed").read_text())
    tag = build.stages()["base"].tag
    assert mode == oct(stat.S_IRWXU)
    assert name == f"{registry.host}/{tag}"
    assert json.loads(config)["auths"][registry.host]["auth"] == base64.b64encode(b"himalia:secret").decode()
    assert "secret" not in (docker.folder / "calls").read_text()
    assert read(home, "built.json")["base"] == {
        "tag": tag,
        "image_id": f"sha256:{tag.partition(':')[2]}",
        "repository": "himalia/base",
        "digest": f"sha256:{hashlib.sha256(MANIFEST).hexdigest()}",
        "config_digest": "sha256:c0",
    }


def test_what_the_registry_has_is_not_pushed_again(docker: Docker, registry: Registry) -> None:
    registry.has_it_from = 0
    assert build.push("himalia/base:1", registry.host, "himalia", "secret")[1] == "sha256:c0"
    assert docker.calls("--config") == []


def test_a_refusal_of_the_registry_is_a_sentence(docker: Docker, registry: Registry) -> None:
    with pytest.raises(build.BuildError, match="refused to say whether it has himalia/base: 401"):
        build.push("himalia/base:1", registry.host, "himalia", "wrong")


def test_a_build_without_a_registry_forgets_no_digest(docker: Docker, home: Path, registry: Registry) -> None:
    (home / "secrets").mkdir(parents=True)
    (home / "secrets/registry-password").write_text("secret")
    run(home, "--only", "base", "--registry", registry.host)
    known = read(home, "built.json")
    run(home, "--only", "base")
    assert read(home, "built.json") == known
