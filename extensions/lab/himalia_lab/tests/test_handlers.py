"""The server half in a real Jupyter server, against a scripted control plane."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from control import Running, job
from tornado.httpclient import HTTPClientError

from himalia_lab.extension import page_config


@pytest.fixture
def jp_server_config(platform: Running) -> dict[str, Any]:
    return {"ServerApp": {"jpserver_extensions": {"himalia_lab": True}}, "IdentityProvider": {"token": "the-visitor"}}


@pytest.fixture
def jp_root_dir(project: Path) -> Path:
    return project.parent


async def refusal(answer: Any) -> tuple[int, dict[str, Any]]:
    with pytest.raises(HTTPClientError) as caught:
        await answer
    assert caught.value.response is not None
    assert caught.value.response.headers["Content-Type"] == "application/problem+json"
    return caught.value.code, json.loads(caught.value.response.body)


def wanted(**more: Any) -> str:
    return json.dumps({"path": "digits/train.py", "kind": "script", "environment": "ada/vision:3", **more})


async def test_a_submit_answers_the_job_and_what_was_packed(jp_fetch, platform: Running):
    answer = await jp_fetch("himalia", "jobs", method="POST", body=wanted())
    assert answer.code == 202
    made = json.loads(answer.body)
    assert made["job"]["status"] == "Queuing"
    assert made["job"]["owner"] == "ada"
    assert made["packed"].startswith("packed ")
    assert {request["token"] for request in platform.control.requests} == {"the-visitor"}


async def test_the_page_learns_where_himalia_is(jp_serverapp):
    assert jp_serverapp.web_app.settings["page_config_data"] == {
        "himaliaUrl": "http://himalia--service.himalia.localhost:8000/services/himalia",
        "himaliaWorkspace": "ws-1",
        "himaliaEnvironment": "himalia/base:1",
    }


async def test_outputs_are_put_back(jp_fetch, platform: Running, project: Path):
    platform.control.jobs["job-1"] = job("job-1", status="Succeeded", working_dir=str(project))
    platform.control.outputs["job-1"] = {"score.json": b"{}"}
    answer = await jp_fetch("himalia", "jobs", "job-1", "outputs", method="POST", body="{}")
    assert json.loads(answer.body) == {"written": 1, "sentence": "score.json put into ~/digits."}


async def test_what_the_control_plane_refuses_reaches_the_page_whole(jp_fetch, platform: Running):
    platform.control.refuse = {"status": 409, "code": "version_not_saved", "detail": "Not saved.", "link": "/x"}
    code, problem = await refusal(jp_fetch("himalia", "jobs", method="POST", body=wanted()))
    assert code == 409
    assert (problem["code"], problem["detail"], problem["link"]) == ("version_not_saved", "Not saved.", "/x")
    assert problem["request_id"] == "req-0815"


async def test_a_login_that_has_ended_is_said_so(jp_fetch, platform: Running):
    platform.control.tokens.clear()
    code, problem = await refusal(jp_fetch("himalia", "jobs", method="POST", body=wanted()))
    assert code == 401
    assert "Reload the page" in problem["detail"]


async def test_a_wrong_request_is_a_422(jp_fetch):
    code, problem = await refusal(jp_fetch("himalia", "jobs", method="POST", body="{not json"))
    assert (code, problem["detail"]) == (422, "The request is no JSON.")
    code, problem = await refusal(jp_fetch("himalia", "jobs", method="POST", body=wanted(path="digits/none.py")))
    assert (code, problem["detail"]) == (404, "digits/none.py is not there. Was it renamed or deleted?")


async def test_without_a_login_nothing_is_done(jp_fetch, platform: Running):
    with pytest.raises(HTTPClientError) as caught:
        await jp_fetch("himalia", "jobs", method="POST", body=wanted(), headers={"Authorization": "token nobody"})
    assert caught.value.code == 403
    assert platform.control.requests == []


async def test_a_cookie_alone_does_not_borrow_the_owners_token(jp_serverapp, jp_fetch, platform: Running):
    jp_serverapp.identity_provider.get_user = lambda handler: jp_serverapp.identity_provider.generate_anonymous_user(
        handler
    )
    jp_serverapp.web_app.settings["disable_check_xsrf"] = True
    code, problem = await refusal(
        jp_fetch("himalia", "jobs", method="POST", body=wanted(), headers={"Authorization": "Basic eA=="})
    )
    assert (code, problem["status"]) == (401, 401)
    assert platform.control.requests == []


def test_outside_himalia_nothing_is_configured():
    assert page_config({"HIMALIA_WORKSPACE": "ws-1"}) == {}


def test_a_platforms_own_address_is_turned_into_the_services():
    found = page_config({"HIMALIA_PUBLIC_URL": "http://himalia.localhost:8000"})
    assert found["himaliaUrl"] == "http://himalia--service.himalia.localhost:8000/services/himalia"
