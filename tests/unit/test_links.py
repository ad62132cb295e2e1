"""Where the buttons of a task lead."""

from __future__ import annotations

from urllib.parse import parse_qs, urljoin, urlsplit

import airflow
import pytest
from packaging import version

from airflow_provider_openai_batches.compat.pages import has_pages
from airflow_provider_openai_batches.idempotency.keys import Origin
from airflow_provider_openai_batches.links import batch_address, job_address

IDS = [
    "plain",
    "manual__2026-11-26T10:54:23.123456+00:00",
    "scheduled__2026-11-26T00:00:00+00:00_a1B2",
    "a b&c=d#e?f%20g",
    "group.task-1_x~",
    "a/b\\c",
    "日本語 ünïcode",
    "{DAG_ID}",
    "<script>",
]


@pytest.mark.parametrize("text", IDS)
@pytest.mark.parametrize("map_index", [-1, 0, 12])
def test_ids_arrive_as_they_are(text: str, map_index: int) -> None:
    """Whatever is in them, in a form that all readers of a query take alike: no plus sign for a space."""
    address = job_address(text, Origin(text, text, text, map_index))
    path, _, query = address.partition("?")
    assert path == "plugin/openai-batches"
    given = {"conn_id": [text], "dag_id": [text], "run_id": [text], "task_id": [text]}
    assert parse_qs(query) == given | ({} if map_index < 0 else {"map_index": [str(map_index)]})
    assert address.isascii()
    assert not set(query) & set("+ :/#<>\"'{}")


@pytest.mark.parametrize("base", ["https://airflow.example/", "https://example.org/team/airflow/"])
def test_it_leads_to_this_airflow(base: str) -> None:
    """Airflow's UI has a base element with its own path, against which a browser resolves the address."""
    address = job_address("c", Origin("dag", "run", "task"))
    assert urlsplit(urljoin(base, address)).path == f"{urlsplit(base).path}plugin/openai-batches"


def test_the_address_of_a_job() -> None:
    origin = Origin("embed", "manual__2026-11-26T10:54:23+00:00", "ask", 2)
    assert job_address("openai_batches_default", origin) == (
        "plugin/openai-batches?conn_id=openai_batches_default&dag_id=embed"
        "&run_id=manual__2026-11-26T10%3A54%3A23%2B00%3A00&task_id=ask&map_index=2"
    )


def test_the_address_of_a_batch() -> None:
    assert batch_address("c", "batch_1&x") == "plugin/openai-batches?conn_id=c&text=batch_1%26x"


def test_which_airflow_has_the_page() -> None:
    assert has_pages() == (version.parse(airflow.__version__) >= version.parse("3.1"))
