"""What every error looks like."""

from __future__ import annotations

import httpx

REQUIRED = {"type", "title", "status", "code", "detail", "request_id"}


def assert_problem(answer: httpx.Response, status: int, code: str) -> dict[str, object]:
    """The canonical shape: required fields, nothing inconsistent, a sentence for a person."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert set(problem) >= REQUIRED
    assert problem["status"] == status
    assert problem["code"] == code, problem
    assert problem["type"] == f"urn:himalia:problem:{code}"
    assert problem["request_id"] == answer.headers["X-Request-ID"] != ""
    assert problem["title"]
    assert problem["detail"].endswith((".", "/")), problem["detail"]
    return problem
