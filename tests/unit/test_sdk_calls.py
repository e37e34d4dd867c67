"""Calls: addresses of this machine, retries, errors, pages, server-sent events."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from himalia import _connection, errors
from himalia._connection import parse_events
from himalia.client import Himalia
from himalia.login import Login
from scripted_platform import (
    DROPPED,
    GATEWAY,
    TOKEN,
    Answer,
    ScriptedPlatform,
    environment,
    job,
    ok,
    page,
    problem,
    serve,
    stream,
    version,
    workspace,
)


@pytest.fixture
def platform() -> Iterator[ScriptedPlatform]:
    with serve() as platform:
        yield platform


@pytest.fixture
def himalia(platform: ScriptedPlatform, monkeypatch: pytest.MonkeyPatch) -> Iterator[Himalia]:
    monkeypatch.setattr(_connection, "_PAUSES", (0.01,))
    monkeypatch.setattr("himalia.job._RECONNECT", (0.01,))
    with Himalia(Login(platform.url, TOKEN, "argument"), environ={}) as client:
        yield client


def test_names_below_localhost_are_this_machine_and_the_host_header_keeps_them(
    himalia: Himalia, platform: ScriptedPlatform
) -> None:
    assert himalia.me().name == "ada"
    (asked,) = platform.calls("GET", "/me")
    assert asked.headers["host"].startswith("himalia--service.himalia.localhost:")
    assert asked.headers["authorization"] == f"Bearer {TOKEN}"


def test_a_proxy_of_the_environment_is_not_asked_for_names_of_this_machine(
    platform: ScriptedPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with Himalia(Login(platform.url, TOKEN, "argument"), environ={}, patience=0) as himalia:
        assert himalia.me().name == "ada"


def test_a_workspace_reaches_its_platform_past_any_proxy(
    platform: ScriptedPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("HIMALIA_WORKSPACE", "ws-1")
    address = platform.url.replace("himalia--service.himalia.localhost", "127.0.0.1")
    with Himalia(Login(address, TOKEN, "workspace"), environ={}, patience=0) as himalia:
        assert himalia.me().name == "ada"


class TestRetries:
    @pytest.mark.parametrize("trouble", [DROPPED, GATEWAY, problem(503, "unavailable", "Starting."), Answer(503)])
    def test_a_read_is_repeated_while_the_platform_restarts(
        self, himalia: Himalia, platform: ScriptedPlatform, trouble: Answer
    ) -> None:
        platform.on("GET", "/jobs/job-1", trouble, trouble, ok(job("Running")))
        assert himalia.jobs.get("job-1").status == "Running"
        assert len(platform.calls("GET", "/jobs/job-1")) == 3

    def test_a_creation_is_repeated_with_the_same_key(self, himalia: Himalia, platform: ScriptedPlatform) -> None:
        platform.on("POST", "/workspaces", DROPPED, ok(workspace("Creating"), 202))
        himalia.workspaces.create("two")
        first, second = platform.calls("POST", "/workspaces")
        assert first.headers["idempotency-key"] == second.headers["idempotency-key"]

    def test_two_creations_have_two_keys(self, himalia: Himalia, platform: ScriptedPlatform) -> None:
        platform.on("POST", "/workspaces", ok(workspace("Creating"), 202))
        himalia.workspaces.create("two")
        himalia.workspaces.create("two")
        first, second = platform.calls("POST", "/workspaces")
        assert first.headers["idempotency-key"] != second.headers["idempotency-key"]

    def test_an_answer_that_says_why_is_not_asked_for_again(self, himalia: Himalia, platform: ScriptedPlatform) -> None:
        platform.on(
            "POST", "/workspaces", problem(503, "image_building", "The image is being built.", progress={"step": 3})
        )
        with pytest.raises(errors.Unavailable) as caught:
            himalia.workspaces.create("two")
        assert len(platform.calls("POST", "/workspaces")) == 1
        assert caught.value.extra["progress"] == {"step": 3}

    def test_patience_ends(self, platform: ScriptedPlatform) -> None:
        platform.on("GET", "/me", GATEWAY)
        with (
            Himalia(Login(platform.url, TOKEN, "argument"), environ={}, patience=0.3) as himalia,
            pytest.raises(errors.Unavailable),
        ):
            himalia.me()
        assert 1 <= len(platform.calls("GET", "/me")) <= 3

    def test_nobody_there_is_a_sentence_with_the_address(self) -> None:
        with (
            Himalia(Login("http://x.localhost:9/services/himalia", TOKEN, ""), environ={}, patience=0) as himalia,
            pytest.raises(errors.Unavailable, match=r"does not answer at http://x\.localhost:9"),
        ):
            himalia.me()


class TestErrors:
    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (400, errors.Invalid),
            (403, errors.Forbidden),
            (404, errors.NotFound),
            (409, errors.Conflict),
            (413, errors.TooLarge),
            (422, errors.Invalid),
            (500, errors.HimaliaError),
        ],
    )
    def test_a_problem_document_becomes_an_error_with_all_it_says(
        self, himalia: Himalia, platform: ScriptedPlatform, status: int, kind: type
    ) -> None:
        platform.on(
            "GET", "/me", problem(status, "some_code", "A sentence.", link="/services/himalia/api/v1/x", place=3)
        )
        with pytest.raises(kind) as caught:
            himalia.me()
        error = caught.value
        assert (str(error), error.status, error.code, error.request_id, error.link, error.extra) == (
            "A sentence.",
            status,
            "some_code",
            "req-1",
            "/services/himalia/api/v1/x",
            {"place": 3},
        )

    def test_an_answer_that_is_no_problem_document_is_still_an_error(
        self, himalia: Himalia, platform: ScriptedPlatform
    ) -> None:
        platform.on("GET", "/me", Answer(404, b"<html>", {"Content-Type": "text/html", "X-Request-ID": "req-2"}))
        with pytest.raises(errors.NotFound, match="answered 404") as caught:
            himalia.me()
        assert caught.value.request_id == "req-2"

    def test_a_token_nobody_knows_is_said_by_where_it_is_from(self, platform: ScriptedPlatform) -> None:
        platform.on("GET", "/me", problem(401, "unauthorized", "Log in first."))
        for source, sentence in (
            ("workspace", "start it again"),
            ("HIMALIA_TOKEN", "revoked or expired"),
            ("/home/ada/login.json", "himalia login"),
        ):
            with (
                Himalia(Login(platform.url, TOKEN, source), environ={}) as himalia,
                pytest.raises(errors.NotLoggedIn, match=sentence),
            ):
                himalia.me()

    def test_a_redirect_is_a_wrong_address_and_is_not_followed(
        self, himalia: Himalia, platform: ScriptedPlatform
    ) -> None:
        platform.on("GET", "/me", Answer(302, b"", {"Location": "http://elsewhere.example.org/"}))
        with pytest.raises(errors.Invalid, match="HIMALIA_URL"):
            himalia.me()


def test_lists_are_read_to_their_last_page(himalia: Himalia, platform: ScriptedPlatform) -> None:
    platform.on("GET", "/jobs", page(job(), next_token="two"), page(job("Running")))
    assert [j.status for j in himalia.jobs.list()] == ["Queuing", "Running"]
    assert [asked.query.get("page_token") for asked in platform.calls("GET", "/jobs")] == [None, "two"]


def test_server_sent_events_are_read_with_comments_and_several_lines() -> None:
    lines = [": a comment", "event: log", "id: 7", "data: one", "data:two", "", "data: three", "", "event: lost", ""]
    assert [(e.event, e.data, e.id) for e in parse_events(iter(lines))] == [
        ("log", "one\ntwo", "7"),
        ("message", "three", "7"),
    ]


class TestLogs:
    def test_a_stream_that_breaks_goes_on_at_the_byte_where_it_broke(
        self, himalia: Himalia, platform: ScriptedPlatform
    ) -> None:
        first, second = "héllo ", "world\u2028\n"
        platform.on("GET", "/jobs/job-1", ok(job("Running")))
        platform.on(
            "GET",
            "/jobs/job-1/log",
            stream(("log", {"offset": 0, "text": first}), drop=True),
            DROPPED,
            GATEWAY,
            stream(("log", {"offset": 7, "text": second}), ("end", {"status": "Succeeded", "exit_code": 0})),
        )
        assert list(himalia.jobs.get("job-1").logs()) == [first, second]
        assert [asked.query["offset"] for asked in platform.calls("GET", "/jobs/job-1/log")] == ["0", "7", "7", "7"]

    def test_without_follow_it_is_what_is_there_now(self, himalia: Himalia, platform: ScriptedPlatform) -> None:
        platform.on("GET", "/jobs/job-1", ok(job("Running")))
        platform.on("GET", "/jobs/job-1/log", Answer(200, "so far é\n".encode(), {"Content-Type": "text/plain"}))
        assert "".join(himalia.jobs.get("job-1").logs(follow=False)) == "so far é\n"
        (asked,) = platform.calls("GET", "/jobs/job-1/log")
        assert asked.headers["accept"] == "text/plain"

    def test_a_job_that_went_away_ends_the_stream_with_an_error(
        self, himalia: Himalia, platform: ScriptedPlatform
    ) -> None:
        platform.on("GET", "/jobs/job-1", ok(job("Running")))
        platform.on("GET", "/jobs/job-1/log", DROPPED, problem(404, "not_found", "There is no such job."))
        with pytest.raises(errors.NotFound):
            list(himalia.jobs.get("job-1").logs())


class TestWaiting:
    def test_a_save_is_waited_for_by_its_phases(self, himalia: Himalia, platform: ScriptedPlatform) -> None:
        platform.on("GET", "/workspaces", page(workspace()))
        platform.on("POST", "/workspaces/ws-1/environments", ok(version("Committing"), 202))
        platform.on(
            "GET",
            "/environments/ada/vision/versions/1",
            *(ok(version(phase)) for phase in ("Committing", "Pushing", "Pushing", "Verifying", "Saved")),
        )
        seen: list[str] = []
        saved = himalia.workspaces.get().save("vision", note="why", progress=lambda v: seen.append(v.phase))
        assert seen == ["Committing", "Pushing", "Verifying", "Saved"]
        assert saved.ref == "ada/vision:1"
        assert platform.calls("POST", "/workspaces/ws-1/environments")[0].json == {"name": "vision", "note": "why"}

    def test_a_save_that_fails_carries_its_version(self, himalia: Himalia, platform: ScriptedPlatform) -> None:
        platform.on("GET", "/workspaces", page(workspace()))
        platform.on("POST", "/workspaces/ws-1/environments", ok(version("Committing"), 202))
        platform.on(
            "GET",
            "/environments/ada/vision/versions/1",
            ok(version("Failed", reason_code="boot_check", reason_message="It did not answer.")),
        )
        with pytest.raises(errors.SaveFailed, match="It did not answer") as caught:
            himalia.workspaces.get().save("vision")
        assert (caught.value.code, caught.value.version.phase) == ("boot_check", "Failed")

    def test_a_workspace_that_fails_to_start_says_why(self, himalia: Himalia, platform: ScriptedPlatform) -> None:
        platform.on("GET", "/workspaces", page(workspace("Stopped")))
        platform.on("POST", "/workspaces/ws-1/start", ok(workspace("Stopped"), 202))
        platform.on(
            "GET",
            "/workspaces/ws-1",
            ok(workspace("Stopped")),
            ok(workspace("Starting")),
            ok(workspace("Failed", reason_message="The server ended.")),
        )
        with pytest.raises(errors.StartFailed, match="The server ended"):
            himalia.workspaces.start()

    def test_a_first_workspace_is_made_and_waited_for(self, himalia: Himalia, platform: ScriptedPlatform) -> None:
        platform.on("GET", "/workspaces", page())
        platform.on("POST", "/workspaces", ok(workspace("Creating"), 202))
        platform.on("GET", "/workspaces/ws-1", ok(workspace("Starting")), ok(workspace("Running")))
        assert himalia.workspaces.start(environment="vision", machine="small").status == "Running"
        assert platform.calls("POST", "/workspaces")[0].json == {"environment": "ada/vision", "machine": "small"}

    def test_waiting_for_a_job_ends_with_its_state_and_checks_it_when_asked(
        self, himalia: Himalia, platform: ScriptedPlatform
    ) -> None:
        platform.on("GET", "/jobs/job-1", *(ok(job(s)) for s in ("Queuing", "Running", "Failed")))
        seen: list[str] = []
        waited = himalia.jobs.get("job-1").wait(changed=lambda j: seen.append(j.status))
        assert (waited.status, seen) == ("Failed", ["Running", "Failed"])
        with pytest.raises(errors.JobFailed):
            waited.wait(check=True)

    def test_a_wait_that_is_too_long_is_a_timeout(self, himalia: Himalia, platform: ScriptedPlatform) -> None:
        platform.on("GET", "/jobs/job-1", ok(job("Running")))
        with pytest.raises(TimeoutError, match="still Running"):
            himalia.jobs.get("job-1").wait(timeout=0.2)

    def test_a_state_of_a_newer_server_is_a_state_that_is_over(
        self, himalia: Himalia, platform: ScriptedPlatform
    ) -> None:
        platform.on("GET", "/jobs/job-1", ok(job("SucceededReserving")))
        assert himalia.jobs.get("job-1").wait().status == "SucceededReserving"


class TestSharing:
    def test_with_a_group_people_or_everyone_and_private_again(
        self, himalia: Himalia, platform: ScriptedPlatform
    ) -> None:
        platform.on("GET", "/environments/ada/vision", ok(environment(version())))
        platform.on("PATCH", "/environments/ada/vision", ok(environment(version(), visibility="group", group="vision")))
        shared = himalia.environments.get("vision").share(group="vision")
        assert shared.info.group == "vision"
        shared.share(people=["ben"])
        shared.share(everyone=True)
        shared.unshare()
        assert [asked.json for asked in platform.calls("PATCH", "/environments/ada/vision")] == [
            {"visibility": "group", "group": "vision"},
            {"visibility": "people", "people": ["ben"]},
            {"visibility": "everyone"},
            {"visibility": "private"},
        ]
        with pytest.raises(errors.Invalid):
            shared.share()
        with pytest.raises(errors.Invalid):
            shared.share(group="vision", everyone=True)

    @pytest.mark.parametrize("ref", ["vision", "ada/vision", "ada/vision:1"])
    def test_names_may_be_short_for_ones_own(self, himalia: Himalia, platform: ScriptedPlatform, ref: str) -> None:
        platform.on("GET", "/environments/ada/vision", ok(environment(version())))
        assert himalia.environments.get(ref).ref == "ada/vision"

    @pytest.mark.parametrize("ref", ["/vision", "ada/", "ada/vision:", "ada/vision:x", "a/b/c"])
    def test_what_is_no_name_is_refused_before_anything_is_asked(
        self, himalia: Himalia, platform: ScriptedPlatform, ref: str
    ) -> None:
        with pytest.raises(errors.Invalid, match="names no environment"):
            himalia.environments.get(ref)
        assert platform.asked == []
