"""What saves are tested against: a registry with a password, and a small image that keeps the container contract's Python."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import bcrypt
import httpx

from himalia_services.model.workload import Image
from himalia_services.snapshot.registry import Registry

USER, PASSWORD = "himalia", "a password of tests"

_REGISTRY = """\
FROM {base}
USER root
RUN apt-get update && apt-get install -y --no-install-recommends docker-registry
ENTRYPOINT ["/usr/bin/docker-registry"]
CMD ["serve", "/etc/docker/registry/config.yml"]
"""

#: Enough to run Python and a shell, and things for a layer to hide, link and replace.
_MINI = r"""
FROM {base} AS full
USER root
RUN set -e; mkdir -p /mini/usr/bin /mini/usr/lib /mini/usr/lib64 /mini/opt/himalia/bin /mini/tmp; \
    cd /mini; ln -s usr/bin bin; ln -s usr/lib lib; ln -s usr/lib64 lib64; chmod 1777 tmp; \
    mkdir -p etc home/jovyan proc sys dev run var; cp /etc/passwd /etc/group etc; chown 1000:1000 home/jovyan; \
    python=$(readlink -f /opt/himalia/bin/python); \
    for tool in sh sleep cat ls; do cp -L "$(command -v $tool)" usr/bin/; done; \
    cp -a --parents /opt/himalia/python .; \
    rm -rf opt/himalia/python/lib/python3*/test opt/himalia/python/lib/python3*/site-packages opt/himalia/python/include; \
    ln -s "$python" opt/himalia/bin/python; ln -s "$python" usr/bin/python; \
    for file in usr/bin/sh usr/bin/ls "$python" $(find opt/himalia/python -name '*.so'); do ldd "$file" || true; done \
      | sed -n 's/.*=> \(\/[^ ]*\) .*/\1/p; s/^\s*\(\/lib[^ ]*\) .*/\1/p' | sort -u \
      | while read -r lib; do case "$lib" in /opt/*|/mini/*) ;; *) cp -L --parents "$lib" .;; esac; done
FROM scratch
COPY --from=full /mini /
ENV PATH=/usr/bin LANG=C.UTF-8
RUN python -c "import os; os.makedirs('/base/folder/deep'); os.mkdir('/base/gone'); os.chdir('/base'); \
[open(f'file{{n}}', 'w').write(f'base {{n}}\\n' * 99) for n in range(20)]; \
os.link('file0', 'linked'); os.symlink('file1', 'link'); open('folder/deep/below', 'w').write('b'); open('gone/x', 'w')"
USER root
LABEL test.of=the-base
ENTRYPOINT ["sleep"]
CMD ["infinity"]
"""


def docker(*args: str, input: bytes | None = None) -> str:
    """The docker command's output, stripped; its complaint when it fails."""
    ended = subprocess.run(["docker", *args], input=input, capture_output=True, timeout=280, check=False)
    assert ended.returncode == 0, f"docker {' '.join(args[:3])}: {ended.stderr.decode(errors='replace')}"
    return ended.stdout.decode(errors="replace").strip()


def full_image() -> str:
    """The image of the platform to test with: `HIMALIA_TEST_IMAGE`, else what `images/build.py` built last."""
    if named := os.environ.get("HIMALIA_TEST_IMAGE"):
        return named
    found = docker("images", "--quiet", "--no-trunc", "himalia/base").split()
    assert found, "no image himalia/base on this engine: run `make images`, or name one in HIMALIA_TEST_IMAGE"
    return found[0]


def build(tag: str, dockerfile: str) -> str:
    """Build from a Dockerfile alone; returns the image's id. The engine's cache makes the second time quick."""
    with tempfile.TemporaryDirectory() as empty:
        path = Path(empty, "Dockerfile")
        path.write_text(dockerfile)
        environment = {**os.environ, "DOCKER_BUILDKIT": "0"}
        command = ["docker", "build", "--quiet", "--tag", tag, "--file", str(path), empty]
        ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900, check=False)
        assert ended.returncode == 0, f"building {tag}: {ended.stderr}{ended.stdout}"
        return ended.stdout.strip().splitlines()[-1]


def mini_image() -> str:
    """A small image that keeps what a save relies on."""
    return build("himalia-test/mini:1", _MINI.format(base=full_image()))


def _registry_image() -> str:
    found = docker("images", "--quiet", "himalia/registry").split()
    return found[0] if found else build("himalia-test/registry:1", _REGISTRY.format(base=full_image()))


@dataclass(frozen=True)
class RunningRegistry:
    """A registry container on a port of its own; `host` is what Docker calls it."""

    container: str
    host: str

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def client(self) -> Registry:
        return Registry(self.url, (USER, PASSWORD))

    def push(self, image: str, repository: str) -> Image:
        """By the docker command, with credentials that it keeps in a folder of ours."""
        name = f"{self.host}/{repository}:1"
        docker("tag", image, name)
        auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        try:
            with tempfile.TemporaryDirectory() as config:
                Path(config, "config.json").write_text(json.dumps({"auths": {self.host: {"auth": auth}}}))
                docker("--config", config, "push", "--quiet", name)
        finally:
            docker("rmi", name)
        with self._http() as http:
            accept = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json"
            answer = http.get(f"/v2/{repository}/manifests/1", headers={"Accept": accept})
            answer.raise_for_status()
            digest = answer.headers["Docker-Content-Digest"]
            return Image(repository=repository, digest=digest, config_digest=answer.json()["config"]["digest"])

    def tags(self, repository: str) -> list[str]:
        with self._http() as http:
            answer = http.get(f"/v2/{repository}/tags/list")
            return sorted(answer.json()["tags"] or []) if answer.status_code == 200 else []

    def _http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, auth=(USER, PASSWORD), trust_env=False, timeout=30)


@contextmanager
def running_registry(name: str) -> Iterator[RunningRegistry]:
    """A fresh registry; gone with its data afterwards."""
    users = f"{USER}:{bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()}\n"
    docker(
        *("create", "--name", name, "--label", "himalia.test=save", "--publish", "127.0.0.1::5000"),
        *("--volume", "/var/lib/registry"),
        *("--env", "REGISTRY_AUTH=htpasswd", "--env", "REGISTRY_AUTH_HTPASSWD_REALM=himalia"),
        *("--env", "REGISTRY_AUTH_HTPASSWD_PATH=/htpasswd", "--env", "REGISTRY_STORAGE_DELETE_ENABLED=true"),
        _registry_image(),
    )
    try:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "htpasswd").write_text(users)
            docker("cp", f"{folder}/htpasswd", f"{name}:/htpasswd")
        docker("start", name)
        host = docker("port", name, "5000/tcp").splitlines()[0]
        _wait_until_it_answers(host, name)
        yield RunningRegistry(name, host)
    finally:
        docker("rm", "--force", "--volumes", name)


def _wait_until_it_answers(host: str, name: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            if httpx.get(f"http://{host}/v2/", trust_env=False).status_code == 401:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline, f"the registry does not answer: {docker('logs', name)}"
        time.sleep(0.1)
