"""What the page says about costs: of each batch, and of all that a viewer may read."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest
from scene import create, made_by, usage
from support import until

from airflow_provider_openai_batches.api.models import Batch, BatchPage
from airflow_provider_openai_batches.plugin import costs
from airflow_provider_openai_batches.plugin.throttle import TooFastError

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from airflow_provider_openai_batches.devserver import DevServer

    Login = Callable[[str], httpx.Client]
    Connection = Callable[..., str]

HOUR, NOW = 3600, 1_700_000_000
# gpt-5-mini: https://developers.openai.com/api/docs/pricing
MINI = {"input": 0.25, "cached_input": 0.025, "output": 2.0}
MINE = made_by("mine", "run_1", "ask", 2)


@pytest.fixture
def conn_id(server: DevServer, connection: Connection) -> str:
    """A connection with a price."""
    return connection("priced", host=server.base_url, extra={"prices": {"gpt-5-mini": MINI}})


def add(server: DevServer, hours: float = 1, *, given: int = 1_000_000, **fields: Any) -> str:
    """Add a batch; one of a million input tokens costs an eighth of a dollar."""
    batch_id = create(server, metadata=fields.pop("metadata", MINE))
    until(
        lambda: any(batch["id"] == batch_id and batch["status"] == "completed" for batch in server.batches())
    )
    counts = {"total": 10, "completed": 10, "failed": 0}
    created = int(time.time() - hours * HOUR)
    shown = {"usage": usage(given, 0), "request_counts": counts, "created_at": created, **fields}
    server.force(batch_id, **shown)
    return batch_id


def get(client: httpx.Client, path: str, conn_id: str, **params: Any) -> Any:
    return client.get(f"/openai-batches/api/{path}", params={"conn_id": conn_id, **params})


def test_a_row_and_the_details_say_the_cost(login: Login, server: DevServer, conn_id: str) -> None:
    """Or that the model has no price; a batch without usage says nothing."""
    known, mine, silent = add(server), add(server, model="mine"), add(server, usage=None)
    client = login("user")
    shown = {row["id"]: row["cost"] for row in get(client, "batches", conn_id).json()["batches"]}
    assert shown == {known: "$0.12", mine: "no price", silent: None}
    assert get(client, f"batches/{mine}", conn_id).json()["batch"]["cost"] == "no price"


def test_the_sum(login: Login, server: DevServer, conn_id: str) -> None:
    """By DAG, task, day and keys of metadata, of the time that was asked for."""
    add(server)
    add(server, given=2_000_000, metadata={**MINE, "team": "red"})
    add(server, hours=30)
    client = login("user")
    found = get(client, "costs", conn_id).json()
    assert found["columns"] == ["dag_id"]
    assert [(group["names"], group["cost"], group["batches"]) for group in found["groups"]] == [
        (["mine"], "$0.38", 2)
    ]
    assert (found["total"]["cost_usd"], found["others"], found["hidden"], found["reached"]) == (
        0.375,
        None,
        0,
        None,
    )
    assert get(client, "costs", conn_id, hours=48).json()["total"]["batches"] == 3
    by_team = get(client, "costs", conn_id, by="team").json()
    assert [(group["names"], group["cost"]) for group in by_team["groups"]] == [
        (["red"], "$0.25"),
        ([None], "$0.12"),
    ]
    assert get(client, "costs", conn_id, by="task,model").json()["columns"] == ["dag_id", "task_id", "model"]


def test_the_chart(login: Login, server: DevServer, conn_id: str) -> None:
    """Of each day, by DAG or model; with what the sum says beside its groups."""
    add(server)
    add(server, hours=30, model="mine")
    client = login("user")
    found = get(client, "costs/days", conn_id, hours=48).json()
    assert len(found["days"]) == 3
    (line,) = found["series"]
    assert (line["name"], sum(line["usd"]), sum(line["requests"])) == ("mine", 0.125, 20)
    assert (found["is_known"], found["hidden"], found["reached"]) == (False, 0, None)
    assert found["since"] == pytest.approx(found["now"] - 48 * HOUR, abs=60)
    by_model = get(client, "costs/days", conn_id, by="model").json()
    assert [line["name"] for line in by_model["series"]] == ["gpt-5-mini"]
    assert by_model["is_known"]


@pytest.mark.parametrize("params", [{"hours": 0}, {"hours": 721}, {"by": "team"}, {"by": "dag,model"}])
def test_bad_parameters_of_the_chart(login: Login, conn_id: str, params: dict[str, Any]) -> None:
    assert get(login("op"), "costs/days", conn_id, **params).status_code == 422


@pytest.mark.parametrize(("role", "batches"), [("viewer", 1), ("user", 1), ("op", 3)])
def test_only_what_the_viewer_may_read(
    login: Login, server: DevServer, conn_id: str, role: str, batches: int
) -> None:
    """The others are counted, and neither their cost nor their names are shown."""
    add(server)
    add(server, metadata=made_by("elsewhere", "run_9", "ask"))
    add(server, metadata={"team": "secret"})
    found = get(login(role), "costs", conn_id, by="team,dag").json()
    assert (found["total"]["batches"], found["hidden"]) == (batches, 3 - batches)
    assert found["total"]["cost_usd"] == pytest.approx(batches / 8)
    assert ("secret" in str(found)) == (batches == 3)
    chart = get(login(role), "costs/days", conn_id).json()
    assert sum(sum(line["requests"]) for line in chart["series"]) == 10 * batches
    assert (chart["hidden"], "elsewhere" in str(chart)) == (3 - batches, batches == 3)


@pytest.mark.parametrize("params", [{"hours": 0}, {"hours": 721}, {"by": ""}, {"by": "x" * 201}])
def test_bad_parameters(login: Login, conn_id: str, params: dict[str, Any]) -> None:
    assert get(login("op"), "costs", conn_id, **params).status_code == 422


def test_an_empty_word(login: Login, server: DevServer, conn_id: str) -> None:
    """It is refused before the service is asked."""
    answer = get(login("op"), "costs", conn_id, by="dag,")
    assert answer.status_code == 400
    assert "An empty word groups nothing" in answer.json()["detail"]
    assert server.stats()["requests"] == {}


def test_a_list_and_a_sum_share_the_cached_pages(
    login: Login, server: DevServer, conn_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who looks at both costs the service no more requests than who looks at the list."""
    from airflow_provider_openai_batches.plugin import OpenAIBatchesPlugin

    add(server)
    clients = OpenAIBatchesPlugin.fastapi_apps[0]["app"]._app.state.clients
    monkeypatch.setattr(clients, "_seconds", 60)
    client = login("op")
    get(client, "batches", conn_id)
    before = server.stats()["requests"]["list_batches"]
    for by in ("dag", "model"):
        assert get(client, "costs", conn_id, by=by).json()["total"]["batches"] == 1
        assert get(client, "costs/days", conn_id, by=by).json()["series"]
    assert server.stats()["requests"]["list_batches"] == before


class Pages:
    """A list of pages with two batches each, an hour between them; the newest is an hour old."""

    def __init__(self, count: int, *, allowed: int = 10**6) -> None:
        self.count, self.allowed, self.asked = count, allowed, 0

    async def __call__(self, after: str | None) -> BatchPage:
        if self.asked == self.allowed:
            raise TooFastError(3)
        self.asked += 1
        start = int(after or 0)
        batches = [Batch(id=str(n), created_at=NOW - n * HOUR) for n in range(start + 1, start + 3)]
        return BatchPage(batches, start + 2 < 2 * self.count, last_id=batches[-1].id)


def newest(pages: Pages, hours: float) -> tuple[int, int | None]:
    found = asyncio.run(costs.newest(pages, NOW - hours * HOUR))
    return len(found.batches), None if found.reached is None else found.reached - NOW


def test_pages_are_asked_for_until_they_are_old_enough() -> None:
    """And no further."""
    pages = Pages(100)
    assert newest(pages, 7) == (7, None)
    assert pages.asked == 4
    assert newest(Pages(3), 1_000) == (6, None)


def test_no_more_pages_than_the_limit() -> None:
    """It is said how far back they go."""
    pages = Pages(100)
    assert newest(pages, 1_000) == (2 * costs.MAX_PAGES, -2 * costs.MAX_PAGES * HOUR)
    assert pages.asked == costs.MAX_PAGES


def test_the_throttle_ends_the_walk() -> None:
    """What is there by then is summed up; without any page the request is refused."""
    assert newest(Pages(100, allowed=3), 1_000) == (6, -6 * HOUR)
    with pytest.raises(TooFastError):
        newest(Pages(100, allowed=0), 1_000)


def test_a_service_that_ignores_the_cursor() -> None:
    """Its first page comes again and again; each batch counts once."""

    async def same(_: str | None) -> BatchPage:
        return BatchPage([Batch(id="1", created_at=1)], has_more=True, last_id="1")

    found = asyncio.run(costs.newest(same, 0))
    assert (len(found.batches), found.reached) == (1, None)
