"""The trigger that watches for batches that end, over real sockets."""

from __future__ import annotations

import asyncio
import importlib
import json
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import DAG, Asset, AssetWatcher
from airflow.triggers.base import BaseEventTrigger
from support import as_stored
from waiting_room import CONN, connection, ids_of, notebook_of, requests, run, seed, until

from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.idempotency.keys import KEY
from airflow_provider_openai_batches.polling import ends, list_watch
from airflow_provider_openai_batches.polling.client import SharedClient
from airflow_provider_openai_batches.triggers import batch_ended
from airflow_provider_openai_batches.triggers.batch_ended import OpenAIBatchEndedTrigger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_openai_batches.devserver import DevServer

FAULTS: tuple[dict[str, Any], ...] = (
    {"action": "status", "status": 503},
    {"action": "status", "status": 401},
    {"action": "status", "status": 200, "body": "not JSON"},
    {"action": "drop_before"},
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(ends, "FILES_WITHIN", 0.0)  # the server's seeded batches have no files
    monkeypatch.setattr(batch_ended, "STORED_AFTER", 0.0)
    monkeypatch.setattr(batch_ended, "READ_AGAIN_AFTER", 0.05)
    yield
    assert not list_watch._watches, "a watch outlived its watchers"


class AssetState:
    """The store of an asset's state, of which there is one of each kind of asset reference."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.failures = 0
        self._by_name, self._by_uri = {"asset": self}, dict[str, Any]()

    async def aget(self, key: str) -> Any:
        self._fail()
        return json.loads(self.values[key]) if key in self.values else None

    async def aset(self, key: str, value: Any) -> None:
        self._fail()
        self.values[key] = json.dumps(value)

    def _fail(self) -> None:
        if self.failures:
            self.failures -= 1
            raise RuntimeError("the API server is away")


class Watching:
    """A running trigger, made from what is stored of it, as a triggerer makes it."""

    def __init__(self, store: AssetState | None = None, **arguments: Any) -> None:
        given = {"poll_interval": 0.1, **arguments}
        path, stored = OpenAIBatchEndedTrigger(**given).serialize()
        assert path == "airflow_provider_openai_batches.triggers.batch_ended.OpenAIBatchEndedTrigger"
        self.trigger = OpenAIBatchEndedTrigger(**json.loads(json.dumps(stored)))
        self.trigger.asset_state_store = store  # type: ignore[assignment]
        self.notebook = notebook_of(self.trigger)  # type: ignore[arg-type]
        self.payloads: list[dict[str, Any]] = []
        self.task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        async for event in self.trigger.run():
            self.payloads.append(event.payload)

    @property
    def told(self) -> list[str]:
        return [payload["batch_id"] for payload in self.payloads]

    def has_told(self, batch_id: str) -> bool:
        return batch_id in self.told

    async def began(self) -> None:
        await until(
            lambda: any(w.has_looked for watch in list_watch._watches.values() for w in watch._watchers)
        )

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])
        assert self.task.cancelled()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of watchers at each look that has begun."""
    counted: list[int] = []
    look = list_watch.ListWatch._look

    async def counting(self: list_watch.ListWatch, watchers: list[list_watch.Watcher]) -> None:
        counted.append(len(watchers))
        await look(self, watchers)

    monkeypatch.setattr(list_watch.ListWatch, "_look", counting)
    return counted


def looks(server: DevServer) -> int:
    return requests(server)["list_batches"]


async def after_looks(server: DevServer, count: int = 3) -> None:
    """Wait for so many more requests for pages."""
    before = looks(server)
    await until(lambda: looks(server) >= before + count)


def end(server: DevServer, *batch_ids: str) -> None:
    for batch_id in batch_ids:
        server.force(batch_id, status="completed")


def test_a_batch_that_ends_is_one_event(server: DevServer) -> None:
    """Not those that had ended before, and each one once, however long the watch goes on."""
    (old, new) = seed(server, 2, metadata={"team": "x"})
    end(server, old)

    async def watch() -> None:
        one = Watching()
        await one.began()
        end(server, new)
        await until(lambda: one.told)
        await after_looks(server)
        assert one.told == [new]
        assert one.payloads[0]["status"] == "completed"
        assert one.payloads[0]["metadata"] == {"team": "x"}
        assert not one.task.done()
        await one.stop()

    run(watch)


def test_a_batch_that_is_submitted_later_is_seen(server: DevServer) -> None:
    """Also among more than a page of others."""
    seed(server, 1)

    async def watch() -> None:
        one = Watching(metadata={"team": "x"})
        await one.began()
        (new,) = seed(server, 1, metadata={"team": "x"}, newer=250)
        await after_looks(server)
        end(server, new)
        await until(lambda: one.told == [new])
        await one.stop()

    run(watch)


def test_many_watchers_share_one_request_a_look(server: DevServer, counted: list[int]) -> None:
    """Each of ten gets what it is about; the awaited batches are on the first page."""
    ids = [seed(server, 1, metadata={"team": str(number)})[0] for number in range(10)]

    async def watch() -> None:
        several = [Watching(metadata={"team": str(number)}) for number in range(10)]
        await several[-1].began()
        await after_looks(server)
        end(server, *ids)
        await until(lambda: all(one.told for one in several))
        assert [one.told for one in several] == [[batch_id] for batch_id in ids]
        await asyncio.gather(*(one.stop() for one in several))

    run(watch)
    assert set(counted) == {10}
    assert sum(requests(server).values()) <= len(counted)


def test_older_batches_take_one_page_for_a_hundred(server: DevServer, counted: list[int]) -> None:
    """Fifty running batches below 1,000 others: two pages a look, and all of them are told."""
    ids = seed(server, 50, newer=1_000)

    async def watch() -> None:
        one = Watching()
        await one.began()
        await after_looks(server, 6)
        end(server, *ids)
        await until(lambda: len(one.told) == 50)
        assert sorted(one.told) == sorted(ids)
        await one.stop()

    run(watch)
    assert requests(server)["retrieve_batch"] == 0
    assert looks(server) <= 11 + 2 * (len(counted) - 1)


def test_a_first_look_that_breaks_off_is_taken_again(server: DevServer) -> None:
    """What it has not shown may have ended before the watch began."""
    seed(server, 1, newer=150)
    end(server, *(one for one in ids_of(server)[-1:]))

    async def watch() -> None:
        server.faults([{"operation": "list_batches", "action": "status", "skip": 1, "times": 1}])
        one = Watching()
        await one.began()
        assert looks(server) >= 4
        await after_looks(server)
        assert one.told == []
        await one.stop()

    run(watch)


def test_the_list_is_read_as_far_back_as_a_batch_can_run(server: DevServer) -> None:
    """A day and two hours, and not all the account's history."""
    server.seed(5_000, spread_seconds=10 * 86_400)

    async def watch() -> None:
        one = Watching()
        await one.began()
        assert looks(server) <= 10
        await one.stop()

    run(watch)


def test_a_list_that_goes_round_in_a_circle_is_left(server: DevServer) -> None:
    """The service does not heed the cursor, and gives a batch no status: the look takes two requests."""
    odd = {"data": [{"id": "batch_odd", "created_at": int(time.time())}], "has_more": True}

    async def watch() -> None:
        server.faults(
            [{"operation": "list_batches", "action": "status", "status": 200, "body": odd, "times": None}]
        )
        one = Watching(poll_interval=60)
        await one.began()
        assert looks(server) == 2
        await one.stop()

    run(watch)


def test_no_fault_ends_the_watch(server: DevServer) -> None:
    """Errors, broken answers and refusals; what ends meanwhile is told after them."""
    ids = seed(server, 4)

    async def watch() -> None:
        one = Watching()
        await one.began()
        for batch_id, fault in zip(ids, FAULTS, strict=True):
            server.faults([{"operation": "list_batches", "times": 2, **fault}])
            end(server, batch_id)
            await until(partial(one.has_told, batch_id))
        assert one.told == ids
        await one.stop()

    run(watch)


def test_a_new_client_that_cannot_be_made_does_not_end_the_watch(
    server: DevServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a refusal the connection is read again; the triggerer may have no more files to open then."""
    (batch_id,) = seed(server, 1)
    failures: list[None] = []

    async def broken(_: SharedClient) -> None:
        failures.append(None)
        raise OSError(24, "Too many open files")

    async def watch() -> None:
        one = Watching()
        await one.began()
        with monkeypatch.context() as patch:
            patch.setattr(SharedClient, "refresh", broken)
            server.faults([{"operation": "list_batches", "action": "status", "status": 401}])
            await until(lambda: failures)
        end(server, batch_id)
        await until(lambda: one.told == [batch_id])
        await one.stop()

    run(watch)


@pytest.mark.parametrize("status", [429, 503])
def test_the_service_says_how_long_to_wait(server: DevServer, status: int) -> None:
    """No request comes before that time, although looks were due, and the batch is told afterwards."""
    (batch_id,) = seed(server, 1)

    async def watch() -> None:
        one = Watching()
        await one.began()
        headers = {"Retry-After": "1"}
        fault = {"operation": "list_batches", "action": "status", "status": status, "headers": headers}
        asked = looks(server)
        server.faults([fault])
        await until(lambda: looks(server) > asked)
        began, asked = time.monotonic(), looks(server)
        end(server, batch_id)
        await until(lambda: looks(server) > asked)
        assert time.monotonic() - began > 0.7
        await until(lambda: one.told == [batch_id])
        await one.stop()

    run(watch)


def test_a_connection_that_is_missing_is_waited_for(
    server: DevServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trigger of an asset cannot fail anything, and Airflow would start it again at once."""
    (batch_id,) = seed(server, 1)

    async def watch() -> None:
        one = Watching(openai_conn_id="later")
        await asyncio.sleep(0.5)
        assert not one.task.done()
        monkeypatch.setenv("AIRFLOW_CONN_LATER", connection(server))
        await one.began()
        end(server, batch_id)
        await until(lambda: one.told == [batch_id])
        await one.stop()

    run(watch)


def test_a_batch_that_is_gone_is_forgotten(server: DevServer) -> None:
    """A service that deletes batches does not know their cursors either."""
    gone, other = seed(server, 2, newer=150)

    async def watch() -> None:
        one = Watching()
        await one.began()
        (list_of_all,) = list_watch._watches.values()
        assert set(list_of_all._awaited) == {gone, other}
        missing = {"action": "status", "status": 404}
        server.faults([{"operation": "retrieve_batch", "path": gone, "times": None, **missing}])
        list_of_all._awaited[gone] = list_of_all._awaited[gone]._replace(before=gone[:-1])
        server.force(gone, status="unknown")
        await until(lambda: gone not in list_of_all._awaited)
        end(server, other)
        await until(lambda: one.told == [other])
        await one.stop()

    run(watch)


def test_a_restart_neither_loses_nor_repeats_an_event(server: DevServer) -> None:
    """With the state store of Airflow 3.3: one ends before, one while nobody watches, one afterwards."""
    before, meanwhile, afterwards = seed(server, 3)
    store = AssetState()

    async def watch() -> None:
        one = Watching(store)
        await one.began()
        end(server, before)
        await until(lambda: one.told and before in "".join(store.values.values()))
        await one.stop()
        end(server, meanwhile)
        two = Watching(store)
        await until(lambda: two.told)
        end(server, afterwards)
        await until(lambda: len(two.told) > 1)
        await after_looks(server)
        assert one.told + two.told == [before, meanwhile, afterwards]
        await two.stop()

    run(watch)


def test_without_a_store_what_runs_at_the_restart_is_told(server: DevServer) -> None:
    """Before Airflow 3.3, what ended meanwhile is not."""
    before, meanwhile, afterwards = seed(server, 3)

    async def watch() -> None:
        one = Watching()
        await one.began()
        end(server, before)
        await until(lambda: one.told)
        await one.stop()
        end(server, meanwhile)
        two = Watching()
        await two.began()
        end(server, afterwards)
        await until(lambda: two.told)
        assert one.told + two.told == [before, afterwards]
        await two.stop()

    run(watch)


def test_a_store_that_fails_is_asked_again(server: DevServer) -> None:
    """To begin without the position would lose or repeat events; to store it later costs nothing."""
    first, second = seed(server, 2)
    store = AssetState()

    async def watch() -> None:
        store.failures = 2
        one = Watching(store)
        await one.began()
        await until(lambda: store.values)
        store.failures = 2
        end(server, first)
        await until(lambda: first in "".join(store.values.values()))
        await one.stop()
        two = Watching(store)
        await two.began()
        end(server, second)
        await until(lambda: two.told)
        assert one.told + two.told == [first, second]
        await two.stop()

    run(watch)


def test_triggers_of_one_asset_keep_their_positions_apart(server: DevServer) -> None:
    ids = [seed(server, 1, metadata={"team": team})[0] for team in "xy"]
    store = AssetState()

    async def watch() -> None:
        several = [Watching(store, metadata={"team": team}) for team in "xy"]
        await several[0].began()
        end(server, *ids)
        await until(lambda: all(one.told for one in several))
        await until(lambda: len(store.values) == 2)
        await asyncio.gather(*(one.stop() for one in several))

    run(watch)


def test_batches_of_tasks_are_left_out(server: DevServer) -> None:
    ours, others = seed(server, 1, metadata={KEY: "k"}), seed(server, 1)

    async def watch() -> None:
        one, all_of_them = Watching(), Watching(include_airflow=True)
        await one.began()
        end(server, *ours, *others)
        await until(lambda: len(all_of_them.told) == 2)
        await until(lambda: one.told)
        assert one.told == others
        await asyncio.gather(one.stop(), all_of_them.stop())

    run(watch)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"poll_interval": 0}, "poll_interval is 0"),
        ({"statuses": []}, "statuses is empty"),
        ({"metadata": [["a", 1]]}, "metadata"),
        ({"statuses": ["done"]}, "statuses has 'done'; a batch ends as one of cancelled, completed"),
        ({"statuses": "done"}, "statuses has 'done'"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"metadata": "a"}, "metadata is a str"),
        ({"openai_conn_id": ""}, "openai_conn_id is ''"),
    ],
)
def test_unusable_arguments_fail_the_dag_and_not_the_triggerer(arguments: dict[str, Any], words: str) -> None:
    trigger = OpenAIBatchEndedTrigger(**arguments)
    with pytest.raises(InvalidInputError, match=words):
        trigger.serialize()


def test_airflow_knows_it_again() -> None:
    """What Airflow stores of a watcher has the hash of what the DAG file says: else it would begin anew."""
    trigger = OpenAIBatchEndedTrigger(CONN, metadata={"b": "1", "a": "2"}, statuses=["failed", "completed"])
    asset = Asset("ended", watchers=[AssetWatcher(name="w", trigger=trigger)])
    with DAG("d", schedule=[asset]) as dag:
        stored = json.loads(as_stored(dag))
    text = json.dumps(stored)
    assert "OpenAIBatchEndedTrigger" in text
    model = importlib.import_module("airflow.models.trigger").Trigger
    path, arguments = trigger.serialize()
    kept = model._decrypt_kwargs(model.encrypt_kwargs(arguments))
    assert kept == arguments
    assert BaseEventTrigger.hash(path, kept) == BaseEventTrigger.hash(path, arguments)
    assert OpenAIBatchEndedTrigger(**kept).serialize() == (path, arguments)
