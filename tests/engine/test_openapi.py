"""The OpenAPI document, fuzzed against a running engine: no 5xx, no answer that it does not describe, no hang."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.engine.serving import start

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
LIMIT = 40.0  # seconds for an answer
EXAMPLES = 25
ROUTES = (
    ("post", "/execute"), ("post", "/v1/sessions"), ("get", "/v1/sessions"), ("get", "/v1/sessions/{id}"),
    ("delete", "/v1/sessions/{id}"), ("post", "/v1/sessions/{id}/execute"), ("post", "/v1/sessions/{id}/interrupt"),
    ("post", "/v1/sessions/{id}/restart"), ("post", "/v1/sessions/{id}/fork"), ("get", "/v1/sessions/{id}/state"),
    ("get", "/v1/sessions/{id}/files"), ("put", "/v1/sessions/{id}/files/{path}"),
    ("get", "/v1/sessions/{id}/files/{path}"), ("get", "/v1/sessions/{id}/calls"),
    ("post", "/v1/sessions/{id}/calls/{call}"), ("get", "/v1/sessions/{id}/executions/{execution}/events"),
    ("get", "/healthz"), ("get", "/readyz"), ("get", "/metrics"),
)  # fmt: skip


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with asyncio.Runner() as runner:
        options = ("--max-sessions", "20", "--timeout", "2", "--max-timeout", "3", "--drain", "0")
        running = runner.run(start(tmp_path_factory.mktemp("engine"), *options))
        try:
            made = httpx2.post(f"{running.url}/v1/sessions", json={"id": "there"}, trust_env=False, timeout=LIMIT)
            assert made.status_code == 201, made.text
            yield running.url
        finally:
            assert runner.run(running.stop()) == 0
        assert "Traceback" not in running.said, running.said


@pytest.fixture(scope="module")
def document(served: str) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"{served}/openapi.json")


def test_every_route_is_described(document: schemathesis.BaseSchema) -> None:
    described = {(method, path) for path, methods in document.raw_schema["paths"].items() for method in methods}
    assert described == set(ROUTES)


@pytest.mark.parametrize(("method", "path"), ROUTES, ids=[" ".join(route) for route in ROUTES])
def test_no_request_breaks_it(document: schemathesis.BaseSchema, method: str, path: str) -> None:
    operation = document[path][method]
    assert isinstance(operation, schemathesis.APIOperation)
    answered = []

    @given(case=operation.as_strategy(), there=st.booleans())
    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
    def ask(case: schemathesis.Case[Any], there: bool) -> None:
        if there and method != "delete" and "id" in case.path_parameters:
            case.path_parameters["id"] = "there"
            case.query = {name: value for name, value in case.query.items() if name != "wait"}
        answer = case.call(timeout=LIMIT)
        answered.append(answer.status_code)
        case.validate_response(answer, checks=CHECKS)

    ask()
    assert answered
