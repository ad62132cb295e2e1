"""The control methods, in this process and over HTTP."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import httpx
import pytest

from airflow_provider_openai_batches.devserver import DevServer, DevServerClient

if TYPE_CHECKING:
    from collections.abc import Iterator

    from devserver_api import Api, LeapingClock


@pytest.fixture(params=["direct", "http"])
def control(request: pytest.FixtureRequest, server: DevServer) -> Iterator[DevServer | DevServerClient]:
    if request.param == "direct":
        yield server
    else:
        with DevServerClient(server.base_url) as client:
            yield client


def test_stats(control: DevServer | DevServerClient, api: Api) -> None:
    """Requests, batches, files and request lines are counted."""
    api.run([api.line("a"), api.line("b", quirk="fail:400")], metadata={"team": "x"})
    api.run([api.line("a")], metadata={"team": "y"})
    stats = control.stats("team")
    assert stats["requests"]["upload_file"] == stats["requests"]["create_batch"] == 2
    assert stats["batches"] == {"stored": 2, "running": 0, "by_status": {"completed": 2}, "seeded": 0}
    assert stats["batches_by_metadata"] == {"x": 1, "y": 1}
    assert stats["files"] == 5
    assert stats["bytes_uploaded"] > 0
    assert stats["request_lines_executed"] == 3
    assert (stats["executed_more_than_once"], stats["paid_more_than_once"]) == (1, 1)
    assert stats["peak_in_flight"] == 1
    assert "batches_by_metadata" not in control.stats()


def test_batches(control: DevServer | DevServerClient, api: Api) -> None:
    """The full batches are given, all of them or those with certain metadata."""
    first = api.run([api.line()], metadata={"team": "x"})
    second = api.run([api.line()], metadata={"team": "y"})
    assert control.batches() == [first, second]
    assert control.batches(team="y") == [second]
    assert control.batches(team="z") == []


def test_force(control: DevServer | DevServerClient, api: Api, server: DevServer) -> None:
    """A batch can be forced to any end, with a part of its requests executed."""
    server.settings(batch_seconds=60)
    lines = [api.line(f"r{number}") for number in range(10)]
    for status, done in (("completed", 10), ("expired", 3), ("cancelled", 3)):
        seen = control.force(api.create(lines)["id"], status=status, after=0.3)
        assert seen["status"] == status
        assert seen[f"{status}_at"]
        assert seen["request_counts"] == {"total": 10, "completed": done, "failed": 0}
        assert len(api.results(seen["output_file_id"])) == done
        assert len(api.results(seen["error_file_id"])) == 10 - done
    seen = control.force(api.create(lines)["id"], status="failed")
    assert (seen["status"], len(seen["errors"]["data"])) == ("failed", 1)
    assert control.stats()["batches"]["running"] == 0


def test_force_after_the_end(control: DevServer | DevServerClient, api: Api) -> None:
    """A batch that is over can still be given another ending."""
    batch = api.run([api.line()])
    assert control.force(batch["id"], status="expired")["status"] == "expired"


@pytest.mark.parametrize("status", ["finalizing", "cancelling", "scheduling", "in_progress"])
def test_stuck(control: DevServer | DevServerClient, api: Api, clock: LeapingClock, status: str) -> None:
    """A batch can be kept in a status, even in an unknown one, until a test forces another."""
    batch = api.create([api.line()])
    control.force(batch["id"], status=status, stuck=True)
    clock.leapt += 60
    assert api.get(batch["id"])["status"] == status
    ending = "cancelled" if status == "cancelling" else "completed"
    assert control.force(batch["id"], status=ending)["status"] == ending


def test_force_and_go_on(control: DevServer | DevServerClient, api: Api, server: DevServer) -> None:
    """Without stuck, a batch goes on from the status that it was given."""
    server.settings(batch_seconds=1)
    batch = api.create([api.line()])
    assert control.force(batch["id"], status="finalizing")["status"] == "finalizing"
    assert api.wait(batch["id"])["request_counts"]["completed"] == 1


def test_cancelling_can_be_stuck(control: DevServer | DevServerClient, api: Api, clock: LeapingClock) -> None:
    """A stuck batch that is cancelled stays cancelling."""
    batch = api.create([api.line()])
    control.force(batch["id"], status="finalizing", stuck=True)
    assert api.http.post(f"/batches/{batch['id']}/cancel").json()["status"] == "cancelling"
    clock.leapt += 60
    assert api.get(batch["id"])["status"] == "cancelling"


def test_fields(control: DevServer | DevServerClient, api: Api) -> None:
    """Any field can be made to show any value."""
    batch = api.run([api.line()])
    control.force(batch["id"], output_file_id="", request_counts=None, extra=[1])
    seen = api.get(batch["id"])
    assert (seen["output_file_id"], seen["request_counts"], seen["extra"]) == ("", None, [1])
    assert seen["status"] == "completed"


def test_freeze(control: DevServer | DevServerClient, api: Api, clock: LeapingClock) -> None:
    """While the server is frozen, no batch changes its status; afterwards all go on."""
    batch = api.create([api.line()])
    control.settings(freeze=True)
    other = api.create([api.line()])
    before = [api.get(batch["id"])["status"], api.get(other["id"])["status"]]
    clock.leapt += 60
    assert [api.get(batch["id"])["status"], api.get(other["id"])["status"]] == before
    assert before[1] == "validating"
    control.settings(freeze=False)
    assert {api.wait(one["id"])["status"] for one in (batch, other)} == {"completed"}


def test_freeze_before_a_batch_is_due(control: DevServer | DevServerClient, api: Api) -> None:
    """A batch that takes no time does not change its status either, although its file is read meanwhile."""
    control.settings(freeze=True, batch_seconds=0)
    batch = api.wait(api.create([api.line()])["id"], lambda seen: seen["model"] is not None)
    assert batch["status"] == "validating"
    control.settings(freeze=False)
    assert api.wait(batch["id"])["status"] == "completed"


def test_force_while_frozen(control: DevServer | DevServerClient, api: Api) -> None:
    """A batch can be forced to its end even while the server is frozen."""
    control.settings(freeze=True)
    batch = api.create([api.line()])
    assert control.force(batch["id"], status="completed")["status"] == "completed"


def test_list_lag(control: DevServer | DevServerClient, api: Api, clock: LeapingClock) -> None:
    """A new batch can be retrieved at once, but is listed later."""
    control.settings(list_lag_seconds=60)
    batch = api.create([api.line()])
    assert api.get(batch["id"])["id"] == batch["id"]
    assert api.http.get("/batches").json()["data"] == []
    clock.leapt += 60
    assert [seen["id"] for seen in api.http.get("/batches").json()["data"]] == [batch["id"]]


def test_output_id_lag(control: DevServer | DevServerClient, api: Api, clock: LeapingClock) -> None:
    """A batch can be over for a while before it shows its files."""
    control.settings(output_id_lag_seconds=60)
    batch = api.run([api.line(), api.line("b", quirk="fail:400")])
    assert batch["status"] == "completed"
    assert batch["output_file_id"] is batch["error_file_id"] is None
    clock.leapt += 60
    seen = api.get(batch["id"])
    assert seen["output_file_id"]
    assert seen["error_file_id"]


def test_file_lag(control: DevServer | DevServerClient, api: Api, clock: LeapingClock) -> None:
    """A batch may not be able to use a file right after its upload."""
    control.settings(file_lag_seconds=60)
    params = api.params(api.upload([api.line()])["id"])
    assert api.http.post("/batches", json=params).status_code == 400
    clock.leapt += 60
    assert api.http.post("/batches", json=params).status_code == 200


def test_omit_nulls_and_no_list(control: DevServer | DevServerClient, api: Api) -> None:
    """The server can leave out nulls, and refuse to list, as some services do."""
    control.settings(omit_nulls=True, list_enabled=False)
    batch = api.create([api.line()])
    assert None not in batch.values()
    assert api.http.get("/batches").status_code == 404


def test_settings_are_checked(server: DevServer) -> None:
    """An unknown setting or a wrong type is refused, and changes nothing."""
    root = server.base_url.removesuffix("/v1")
    for changes in ({"batch_second": 1}, {"batch_seconds": "x", "latency": 9}):
        assert httpx.post(f"{root}/_dev/settings", json=changes).status_code == 400
    assert server.service.settings.latency == 0


def test_seed(control: DevServer | DevServerClient, api: Api, server: DevServer) -> None:
    """Seeded batches are listed at their places in time, and are left out of the counts."""
    batch = api.create([api.line()])
    count = 100_000 if control is server else 1_000
    control.seed(count, status="in_progress", metadata={"k": "v"}, spread_seconds=3600)
    control.seed(1, status="completed")
    page = api.http.get("/batches", params={"limit": 100}).json()
    assert page["has_more"]
    assert page["data"][0]["status"] == "completed"
    assert {seen["status"] for seen in page["data"]} >= {"in_progress", "completed"}
    assert page["data"][50]["metadata"] == {"k": "v"}
    after = page["last_id"]
    for _ in range(3):
        page = api.http.get("/batches", params={"limit": 100, "after": after}).json()
        assert page["first_id"] != after
        after = page["last_id"]
    stats = control.stats()["batches"]
    assert (stats["stored"], stats["seeded"]) == (1, count + 1)
    assert [seen["id"] for seen in control.batches()] == [batch["id"]]
    assert api.http.post(f"/batches/{after}/cancel").json()["status"] in ("cancelling", "cancelled")


def test_reset(control: DevServer | DevServerClient, api: Api, server: DevServer) -> None:
    """After a reset nothing is left, and batches that were under way write no files."""
    control.settings(batch_seconds=60, latency=0.01)
    control.faults([{"operation": "delete_file", "action": "status"}])
    api.create([api.line(f"r{number}") for number in range(100)])
    control.reset()
    stats = control.stats()
    assert (stats["batches"]["stored"], stats["files"], stats["requests"]) == (0, 0, {})
    assert server.service.settings.batch_seconds == 0.05
    assert api.run([api.line()])["status"] == "completed"


def test_same_methods() -> None:
    """The client has every control method of the server."""
    methods = {"faults", "clear_faults", "settings", "stats", "batches", "force", "seed", "reset"}
    assert methods <= set(dir(DevServer)) & set(dir(DevServerClient))


def test_latency_keeps_concurrency(server: DevServer, api: Api) -> None:
    """Each answer is delayed, but many are sent at the same time."""
    api.http.get("/batches")
    server.settings(latency=0.2)
    began = time.monotonic()
    with ThreadPoolExecutor(20) as pool:
        statuses = {answer.status_code for answer in pool.map(api.http.get, ["/batches"] * 20)}
    assert statuses == {200}
    assert 0.2 <= time.monotonic() - began < 20 * 0.2
    assert 1 < server.stats()["peak_in_flight"] <= 20  # all 20 unless the machine is busy
