"""The OpenAPI document is true: what schemathesis makes of it gets an answer as it says there."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from pagoda_runtime.server.api.schema import document
from schemathesis.checks import load_all_checks

from tests.integration.runtime.conftest import Server, eventually
from tests.integration.runtime.test_api import error_of, idle

load_all_checks()
checks = schemathesis.checks.CHECKS
CHECKS = checks.get_by_names(
    [
        "status_code_conformance",
        "content_type_conformance",
        "response_schema_conformance",
        "unsupported_method",
    ]
)
schema = schemathesis.openapi.from_dict(document("test"))


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Server]:
    # Small, so that no generated request takes long.
    flags = ["--dtype", "bfloat16", "--max-model-len", "64", "--max-num-seqs", "4"]
    server = Server(model, *flags, "--drain-delay", "0")
    yield server.wait_ready()
    eventually(lambda: idle(server), "every block is free")
    assert not [line for line in server.logs if line["level"] in ("error", "critical")]
    server.close()


def test_the_document_is_served(server: Server) -> None:
    served = server.get("/openapi.json").json()
    served["info"]["version"] = "test"
    assert served == document("test")


@schema.parametrize()
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_answers_are_as_documented(case: Any, server: Server) -> None:
    response = case.call(base_url=server.url, timeout=60)
    case.validate_response(response, checks=CHECKS)
    if response.status_code == 504:
        assert response.json()["error"]["code"] == "deadline_exceeded"
    else:
        assert response.status_code < 500
    if response.status_code >= 400:
        error_of(response)
