"""What is known of each endpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_openai_batches.api.endpoints import SPECS, EndpointSpec, spec_of
from airflow_provider_openai_batches.exceptions import InvalidInputError

DOCUMENT = json.loads((Path(__file__).parents[1] / "openapi" / "openai-batch-openapi.json").read_text())


def endpoints(node: Any) -> list[str]:
    """The values of the parameter ``endpoint``, wherever it is in the document."""
    if isinstance(node, list):
        return [found for child in node for found in endpoints(child)]
    if not isinstance(node, dict):
        return []
    own = node.get("endpoint")
    named = own.get("enum", []) if isinstance(own, dict) else []
    return [*named, *(found for child in node.values() for found in endpoints(child))]


def test_every_endpoint_of_the_batch_api_is_known() -> None:
    """Those that the API reference allows for a batch, and no others."""
    assert {f"/v1/{path}" for path in SPECS} == set(endpoints(DOCUMENT))


def test_an_endpoint_is_found_with_and_without_its_version() -> None:
    """Azure leaves it out."""
    assert spec_of("/v1/chat/completions") is spec_of("/chat/completions") is SPECS["chat/completions"]
    with pytest.raises(InvalidInputError, match="endpoint 'chat' is not a path"):
        spec_of("chat")


def test_an_unknown_endpoint_gets_whatever_it_is_given() -> None:
    """No field and no model is asked for, and answers are kept whole."""
    spec = spec_of("/v1/new/things")
    assert spec == EndpointSpec(path="new/things")
    spec.check_body({"anything": 1})
    assert (spec.read, spec.count_inputs, spec.schema_path) == (None, None, ())
    with pytest.raises(InvalidInputError, match="new/things does not take a prompt"):
        spec.prompt_body("hi")


@pytest.mark.parametrize(
    ("given", "count"),
    [("a", 1), (["a", "b"], 2), ([1, 2, 3], 1), ([[1, 2], [3]], 2), ([], 1), (None, 1)],
)
def test_embedding_inputs(given: Any, count: int) -> None:
    """Texts and lists of tokens count once each; a list of numbers is one tokenised text."""
    count_inputs = spec_of("/v1/embeddings").count_inputs
    assert count_inputs is not None
    assert count_inputs(given) == count


@pytest.mark.parametrize(
    ("endpoint", "body", "expected"),
    [
        ("/v1/chat/completions", {"seed": 1}, {"seed": 1, "response_format": "FORM"}),
        ("/v1/responses", {"seed": 1}, {"seed": 1, "text": {"format": "FORM"}}),
        (
            "/v1/responses",
            {"text": {"verbosity": "low"}},
            {"text": {"verbosity": "low", "format": "FORM"}},
        ),
    ],
)
def test_an_output_schema_goes_where_the_endpoint_wants_it(
    endpoint: str, body: dict[str, Any], expected: dict[str, Any]
) -> None:
    """What else is there stays, and the body that was given is not changed."""
    before = json.dumps(body)
    assert spec_of(endpoint).with_schema(body, "FORM") == expected
    assert json.dumps(body) == before
