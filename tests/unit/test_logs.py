"""No secret reaches the log, wherever in a line it stands."""

import json
import subprocess
import sys

import pytest

from himalia_services.logs import GONE, Scrub

OURS = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    "value",
    [
        f"sent {OURS} to the hub",
        {"deep": [{"er": f"x{OURS}x"}]},
        ValueError(OURS),
        f"Authorization: Bearer {OURS}",
    ],
)
def test_a_secret_of_ours_is_removed_from_any_value(value: object) -> None:
    line = Scrub([OURS])(None, "info", {"event": "x", "value": value})
    assert OURS not in json.dumps(line)
    assert GONE in json.dumps(line)


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer s3cr3t-token-value",
        "authorization: token s3cr3t-token-value",
        "GET /services/himalia/oauth_callback?code=s3cr3t-token-value&state=s3cr3t-token-value",
        "/lab?token=s3cr3t-token-value",
        "{'client_secret': 's3cr3t-token-value'}",
        '{"password": "s3cr3t-token-value"}',
    ],
)
def test_a_secret_of_somebody_is_removed_by_its_shape(text: str) -> None:
    assert "s3cr3t" not in Scrub([]).text(text)


@pytest.mark.parametrize("text", ["the token expired", "code: 3", "job-0123456789ab is Running", "a bearer of news"])
def test_plain_words_stay(text: str) -> None:
    assert Scrub([OURS]).text(text) == text


PROGRAM = f"""
import logging, structlog
from himalia_services import logs
logs.configure(["{OURS}"])
structlog.get_logger("ours").info("hello", who="ada", secret="{OURS}")
logging.getLogger("theirs").warning("about %s", "{OURS}")
try:
    raise RuntimeError("{OURS}")
except RuntimeError:
    structlog.get_logger("ours").exception("broke")
logging.getLogger("uvicorn.access").info("a line per request")
"""


def test_every_line_is_an_object_and_none_has_the_secret() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    assert OURS not in done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["hello", f"about {GONE}", "broke"]
    assert lines[0]["who"] == "ada"
    assert lines[1]["logger"] == "theirs"
    assert "RuntimeError" in lines[2]["exception"]
