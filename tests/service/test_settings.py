"""Settings: what a variable means, which addresses and paths follow, and secrets that others may read."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from himalia_services.errors import Invalid
from himalia_services.model import catalog
from himalia_services.settings import Settings, SettingsTrouble
from himalia_spawner.place import Place
from service.conftest import INSTANCE, SECRETS


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"HIMALIA_{name.upper()}", raising=False)


def test_addresses_follow_from_domain_port_and_gateway() -> None:
    settings = Settings(port=9000, domain="lab.example.org", gateway="172.20.0.1")
    assert settings.public_url == "http://lab.example.org:9000"
    assert settings.service_url == "http://himalia--service.lab.example.org:9000/services/himalia"
    assert settings.internal_url == "http://172.20.0.1:9082/services/himalia"
    assert settings.hub_api_url == "http://172.20.0.1:9081/hub/api"
    assert settings.registry_host == "127.0.0.1:9050"


def test_path_routing_puts_everything_on_one_origin() -> None:
    assert Settings(routing="path").service_url == "http://himalia.localhost:8000/services/himalia"


def test_hub_and_control_plane_agree_where_everything_is(settings: Settings) -> None:
    environ = {
        "HIMALIA_HOME": str(settings.home),
        "HIMALIA_PORT": str(settings.port),
        "HIMALIA_GATEWAY": settings.gateway,
    }
    place = Place.read(environ)
    assert place.url == settings.public_url
    assert place.callback_url == f"{settings.service_url}/oauth_callback"
    assert place.control_url + "/services/himalia" == settings.internal_url
    assert f"http://{place.gateway}:{place.hub_port}/hub/api" == settings.hub_api_url
    assert place.registry == settings.registry_host
    assert place.internal_socket == settings.internal_socket


def test_variables_are_read_and_an_empty_one_counts_as_not_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {"HOME": str(tmp_path), "PORT": "9100", "DOMAIN": "", "CATALOG": ""}.items():
        monkeypatch.setenv(f"HIMALIA_{name}", value)
    settings = Settings()
    assert (settings.home, settings.port, settings.domain) == (tmp_path, 9100, "himalia.localhost")
    assert settings.catalog.name == "catalog.yaml"
    assert settings.catalog.is_file()


@pytest.mark.parametrize("port", ["80", "65535", "many"])
def test_a_port_that_leaves_no_room_is_refused(monkeypatch: pytest.MonkeyPatch, port: str) -> None:
    monkeypatch.setenv("HIMALIA_PORT", port)
    with pytest.raises(ValidationError, match="port"):
        Settings()


def test_settings_do_not_change(settings: Settings) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        settings.port = 1  # pyright: ignore[reportAttributeAccessIssue]


def test_names_carry_the_installation(settings: Settings) -> None:
    assert settings.instance == INSTANCE
    assert settings.prefix == settings.network == f"himalia-{INSTANCE[:8]}"


@pytest.mark.parametrize("content", [None, "", "not a uuid"])
def test_an_installation_without_its_uuid_is_refused_with_a_sentence(settings: Settings, content: str | None) -> None:
    path = settings.home / "instance"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingsTrouble, match="instance"):
        _ = settings.instance


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_read_from_its_file(settings: Settings, name: str) -> None:
    assert settings.secret(name) == SECRETS[name]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_secret_that_others_may_read_is_refused(settings: Settings, mode: int) -> None:
    (settings.home / "secrets" / "seal").chmod(mode)
    with pytest.raises(SettingsTrouble, match="chmod 600") as refusal:
        settings.secret("seal")
    assert SECRETS["seal"] not in str(refusal.value)


def test_a_secret_that_is_missing_is_named(settings: Settings) -> None:
    with pytest.raises(SettingsTrouble, match="himalia up"):
        settings.secret("nobody")


# The catalog


def test_the_catalog_we_ship_is_right(settings: Settings) -> None:
    offered = catalog.parse(yaml.safe_load(settings.catalog.read_text()))
    assert offered.default_machine.name == "small"
    assert (offered.default_machine.cpu, offered.default_machine.memory_bytes) == (1, 2 << 30)
    assert offered.machine("large").memory_bytes == 12 << 30
    assert offered.machine(None) is offered.machine("") is offered.default_machine
    assert [preset.name for preset in offered.presets] == ["base"]
    assert catalog.resources(offered.machine("medium")).shm_bytes == 1 << 30


def test_a_machine_nobody_offers_is_invalid_and_the_offer_is_named(settings: Settings) -> None:
    offered = catalog.parse(yaml.safe_load(settings.catalog.read_text()))
    with pytest.raises(Invalid, match="small, medium, large"):
        offered.machine("huge")


MACHINE = {"name": "s", "cpu": 1, "memory": "1 GiB", "default": True}
PRESET = {"name": "base"}


@pytest.mark.parametrize(
    ("document", "says"),
    [
        (None, "two lists"),
        ({}, "machines"),
        ({"machines": [MACHINE], "presets": []}, "presets"),
        ({"machines": [MACHINE], "presets": [PRESET], "gpus": []}, "two lists"),
        ({"machines": [MACHINE | {"default": False}], "presets": [PRESET]}, "default"),
        ({"machines": [MACHINE, MACHINE | {"name": "t"}], "presets": [PRESET]}, "default"),
        ({"machines": [MACHINE, MACHINE | {"default": False}], "presets": [PRESET]}, "differ"),
        ({"machines": [MACHINE | {"cpu": 0}], "presets": [PRESET]}, "cpu"),
        ({"machines": [MACHINE | {"cpu": True}], "presets": [PRESET]}, "cpu"),
        ({"machines": [MACHINE | {"memory": "2 GB"}], "presets": [PRESET]}, "memory"),
        ({"machines": [MACHINE | {"memory": 2}], "presets": [PRESET]}, "memory"),
        ({"machines": [MACHINE | {"memory": "1 KiB"}], "presets": [PRESET]}, "memory"),
        ({"machines": [MACHINE | {"gpu": 1}], "presets": [PRESET]}, "gpu"),
        ({"machines": [MACHINE | {"name": "Big One"}], "presets": [PRESET]}, "name"),
        ({"machines": [MACHINE], "presets": ["base"]}, "name"),
    ],
)
def test_a_catalog_that_is_wrong_is_refused_with_a_sentence(document: object, says: str) -> None:
    with pytest.raises(catalog.CatalogError, match=says):
        catalog.parse(document)
