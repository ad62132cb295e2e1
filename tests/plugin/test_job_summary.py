"""The summary of a job, as the page shows it: what its task returned, whatever that is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from airflow_provider_openai_batches.devserver import DevServer

    Login = Callable[[str], httpx.Client]
    Refuse = Callable[[str, str | None], None]
    Ran = Callable[..., None]

BASE = "/openai-batches/api/jobs"
CONN = {"conn_id": "openai_batches_default"}
TASK = ("mine", "run_1", "ask", 2)
ORIGIN: dict[str, Any] = {"dag_id": "mine", "run_id": "run_1", "task_id": "ask", "map_index": 2}
USAGE = {"input_tokens": 5, "cached_tokens": 0, "output_tokens": 7, "reasoning_tokens": 0, "total_tokens": 12}
SUMMARY: dict[str, Any] = {
    "output_uri": "s3://results/run_1",
    "output_format": "parquet",
    "endpoint": "/v1/responses",
    "rows": 1_000,
    "counts": {"succeeded": 998, "failed": 2},
    "truncated": 0,
    "usage": USAGE,
    "live": {"rows": 1, "usage": USAGE, "times_batch_price": 2.0},
    "cost": {"usd": 0.5, "is_known": True, "unpriced": [], "unmetered": 0, "items": []},
    "parts": ["part-00000.parquet"],
    "parts_total": 1,
    "batches_total": 3,
    "rounds": 1,
    "errors": {"invalid": {"count": 2, "message": "No city.", "custom_id": "row-7"}},
    "errors_total": 1,
    "times": {"started": "2026-11-25T10:00:00Z", "finished": "2026-11-25T10:10:00Z"},
    "sources": {"batch": 999, "live": 1, "store": 0, "duplicate": 0},
    "table": {"table": "reviews", "rows": 1_000, "loaded_before": False},
}


def summary(client: httpx.Client, **of: Any) -> httpx.Response:
    return client.get(f"{BASE}/summary", params={**CONN, **ORIGIN, **of})


@pytest.mark.parametrize("role", ["viewer", "user", "op", "admin"])
def test_the_summary(login: Login, server: DevServer, ran: Ran, role: str) -> None:
    """It comes from Airflow's database, and nothing is asked of the service."""
    ran(TASK, "success", return_value=SUMMARY)
    answer = summary(login(role))
    assert (answer.status_code, answer.json()["summary"]) == (200, SUMMARY)
    assert server.stats()["requests"] == {}


def test_the_summary_that_the_operator_makes_is_shown_whole() -> None:
    """But for the batches, which the page lists itself, and the lines of their files."""
    from airflow_provider_openai_batches.api.usage import Usage
    from airflow_provider_openai_batches.inference.data.findings import Scan
    from airflow_provider_openai_batches.inference.data.manifest import ErrorGroup, LiveUse, Manifest
    from airflow_provider_openai_batches.inference.summary import summary_of
    from airflow_provider_openai_batches.plugin.job_summary import MAX_SUMMARY, summary_in
    from airflow_provider_openai_batches.pricing.cost import Cost

    errors = {f"{number:03}" + "\N{GRINNING FACE}" * 400: number for number in range(30)}
    made = summary_of(
        Manifest(
            digest="d",
            endpoint="/v1/responses",
            output_format="jsonl",
            rows=10,
            parts=[],
            counts={"succeeded": 10},
            usage=Usage(),
            batches=[],
            errors={code: ErrorGroup(number, code, code) for code, number in errors.items()},
            scan=Scan(),
            live=LiveUse(),
            cost=Cost(usd=1.0),
            sources={"batch": 10},
        ),
        "s3://bucket/out",
    )
    stored = json.dumps(made)
    assert len(stored) < MAX_SUMMARY
    left_out = {"batches", "lines"}
    assert summary_in(stored) == {name: value for name, value in made.items() if name not in left_out}


def test_a_dry_run(login: Login, ran: Ran) -> None:
    cost = {"usd": 2.5, "is_known": True}
    estimate = {"input_tokens": 7, "output_tokens": 9, "basis": "max_tokens", "cost": cost}
    made = {"dry_run": True, "output_uri": "/out", "rows": 3, "shards": 1, "estimate": estimate}
    ran(TASK, "success", return_value={**made, "shards_uri": "s3://work"})
    assert summary(login("viewer")).json()["summary"] == made


def test_a_task_without_a_summary(login: Login, ran: Ran) -> None:
    """It has not finished, is not mapped, or is another kind of task."""
    client = login("user")
    assert summary(client).json()["summary"] is None
    ran(TASK, "success", return_value=SUMMARY)
    ran((*TASK[:3], 3), "success", return_value="batch_1")
    assert summary(client, map_index=3).json()["summary"] is None
    assert summary(client, map_index=-1).json()["summary"] is None


@pytest.mark.parametrize(
    ("of", "status", "words"),
    [
        ({"run_id": "run_7"}, 404, "This Airflow has no run 'run_7' of DAG 'mine'."),
        ({"run_id": "run\0"}, 404, "has no run"),
        ({"dag_id": "elsewhere"}, 403, "This Airflow has no DAG 'elsewhere', or you may not read it."),
        ({"dag_id": ""}, 422, "dag_id"),
        ({"map_index": -2}, 422, "map_index"),
        ({"map_index": 10**30}, 422, "map_index"),
        ({"task_id": "x" * 600}, 422, "task_id"),
    ],
)
def test_what_there_is_not(login: Login, of: dict[str, Any], status: int, words: str) -> None:
    answer = summary(login("user"), **of)
    assert (answer.status_code, words in answer.json()["detail"]) == (status, True)


@pytest.mark.parametrize("entity", [None, "XCOM"])
def test_the_summary_needs_two_rights(login: Login, ran: Ran, refuse: Refuse, entity: str | None) -> None:
    """Reading the DAG, and reading its XComs."""
    ran(TASK, "success", return_value=SUMMARY)
    client = login("admin")
    refuse("GET", entity)
    answer = summary(client)
    assert answer.status_code == 403
    assert "s3://" not in answer.text


HOSTILE: dict[str, Any] = {
    "text": "s3://xcoms/abc.json",
    "a list": [SUMMARY],
    "no rows": {**SUMMARY, "rows": "<b>"},
    "not a number": {**SUMMARY, "rows": float("nan")},
    "huge": {**SUMMARY, "prompt": "x" * 10**6},
}


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_summary(login: Login, ran: Ran, value: Any) -> None:
    ran(TASK, "success", return_value=value)
    answer = summary(login("user"))
    assert (answer.status_code, answer.json()["summary"]) == (200, None)


def test_a_summary_is_cut_and_has_known_fields_alone(login: Login, ran: Ran) -> None:
    odd = {
        "prompt": "secret",
        "parts": ["p" * 900, 7, *["p"] * 90],
        "errors": {"a": {"count": 1, "message": "m" * 900, "body": "secret"}, "b": 3},
        "counts": {f"status {number}": number for number in range(90)},
        "usage": {**USAGE, "input_tokens": -1, "secret": 1},
        "cost": "free",
        "table": {"table": "t", "password": "secret"},
    }
    ran(TASK, "success", return_value={**SUMMARY, **odd})
    answer = summary(login("user"))
    shown = answer.json()["summary"]
    assert "secret" not in answer.text
    assert shown["parts"] == ["p" * 500, *["p"] * 48]
    assert shown["errors"] == {"a": {"count": 1, "message": "m" * 500}}
    assert len(shown["counts"]) == 50
    assert shown["usage"] == {name: value for name, value in USAGE.items() if name != "input_tokens"}
    assert shown["table"] == {"table": "t"}
    assert "cost" not in shown


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*SUMMARY, "usd", "count"]), inner),
    max_leaves=12,
)


@settings(derandomize=True, deadline=None)
@given(
    st.text()
    | JSON.map(json.dumps)
    | JSON.map(lambda odd: json.dumps({**SUMMARY, "usage": odd, "cost": odd}))
)
def test_no_value_breaks_the_summary(stored: str) -> None:
    from airflow_provider_openai_batches.plugin.job_summary import summary_in

    json.dumps(summary_in(stored), ensure_ascii=False, allow_nan=False).encode()
