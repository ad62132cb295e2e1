"""How a batch gets from its creation to each of its ends."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from devserver_api import Clock, wait_until

from airflow_provider_openai_batches.devserver import DevServer, lifecycle
from airflow_provider_openai_batches.devserver.validation import check_file

if TYPE_CHECKING:
    import pytest
    from devserver_api import Api

    from airflow_provider_openai_batches.devserver.store import InputCheck

CLOCK, BATCH_SECONDS = Clock, 100
MANY = 40


def validated(api: Api, batch: dict[str, Any]) -> dict[str, Any]:
    """The batch, once the worker has read its input file."""
    return api.wait(batch["id"], lambda seen: seen["model"] is not None)


def test_completed(server: DevServer, api: Api, clock: Clock) -> None:
    """A batch spends its time in each status, its counts rise evenly, every request is answered once."""
    batch = api.create([api.line(f"r{number}") for number in range(MANY)])
    assert (batch["created_at"], batch["expires_at"]) == (clock.now, clock.now + 86_400)
    assert validated(api, batch)["status"] == "validating"
    clock.now += 10
    seen = api.get(batch["id"])
    assert (seen["status"], seen["in_progress_at"]) == ("in_progress", clock.now)
    assert seen["request_counts"] == {"total": MANY, "completed": 0, "failed": 0}
    clock.now += 40
    seen = api.get(batch["id"])
    assert seen["request_counts"] == {"total": MANY, "completed": MANY // 2, "failed": 0}
    assert seen["output_file_id"] is None
    clock.now += 40
    seen = api.get(batch["id"])
    assert (seen["status"], seen["finalizing_at"]) == ("finalizing", clock.now)
    clock.now += 10
    seen = api.wait(batch["id"])
    assert (seen["status"], seen["completed_at"]) == ("completed", clock.now)
    assert seen["request_counts"] == {"total": MANY, "completed": MANY, "failed": 0}
    results = api.results(seen["output_file_id"])
    assert sorted(results) == sorted(f"r{number}" for number in range(MANY))
    assert list(results) != sorted(results, key=lambda name: int(name[1:]))
    assert seen["error_file_id"] is None


def test_usage_is_the_sum_of_the_answers(server: DevServer, api: Api) -> None:
    """The batch's usage is the sum of that of its successful requests."""
    batch = api.create([api.line(f"r{number}") for number in range(5)] + [api.line("x", quirk="fail:400")])
    seen = server.force(batch["id"], status="completed")
    used = [line["response"]["body"]["usage"] for line in api.results(seen["output_file_id"]).values()]
    usage = seen["usage"]
    assert len(used) == 5
    assert usage["input_tokens"] == sum(one["prompt_tokens"] for one in used) > 0
    assert usage["output_tokens"] == sum(one["completion_tokens"] for one in used) > 0
    cached = sum(one["prompt_tokens_details"]["cached_tokens"] for one in used)
    reasoning = sum(one["completion_tokens_details"]["reasoning_tokens"] for one in used)
    assert usage["input_tokens_details"]["cached_tokens"] == cached > 0
    assert usage["output_tokens_details"]["reasoning_tokens"] == reasoning > 0
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


def test_failed_requests(server: DevServer, api: Api) -> None:
    """A request that fails is in the error file, with the detail in the body and no error of its own."""
    batch = api.create([api.line("good"), api.line("bad", quirk="fail:429")])
    seen = server.force(batch["id"], status="completed")
    assert seen["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    assert list(api.results(seen["output_file_id"])) == ["good"]
    line = api.results(seen["error_file_id"])["bad"]
    assert line["error"] is None
    assert line["response"]["status_code"] == 429
    assert line["response"]["body"]["error"]["code"] == "rate_limit_exceeded"


def test_no_success_no_output_file(server: DevServer, api: Api) -> None:
    """A batch can be completed without a single success; then it has no output file."""
    seen = server.force(api.create([api.line(quirk="fail:400")])["id"], status="completed")
    assert (seen["status"], seen["output_file_id"]) == ("completed", None)
    assert seen["request_counts"] == {"total": 1, "completed": 0, "failed": 1}


def test_a_body_that_the_endpoint_refuses(server: DevServer, api: Api) -> None:
    """A request without the field that its endpoint needs is answered 400."""
    seen = server.force(api.create([api.line(messages=None)])["id"], status="completed")
    assert api.results(seen["error_file_id"])["a"]["response"]["status_code"] == 400


def test_cancel(server: DevServer, api: Api, clock: Clock) -> None:
    """A cancelled batch is cancelling for a while; its error file has the requests that were not executed."""
    batch = api.create([api.line(f"r{number}") for number in range(MANY)])
    validated(api, batch)
    clock.now += 10
    assert api.get(batch["id"])["status"] == "in_progress"
    clock.now += 20
    answer = api.http.post(f"/batches/{batch['id']}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelling")
    again = api.http.post(f"/batches/{batch['id']}/cancel")
    assert (again.status_code, again.json()["cancelling_at"]) == (200, clock.now)
    clock.now += 9
    assert api.get(batch["id"])["status"] == "cancelling"
    clock.now += 1
    seen = api.wait(batch["id"])
    assert (seen["status"], seen["cancelled_at"]) == ("cancelled", clock.now)
    done, rest = api.results(seen["output_file_id"]), api.results(seen["error_file_id"])
    assert len(done) == seen["request_counts"]["completed"] == MANY // 4
    assert len(done | rest) == MANY
    assert {(line["response"], line["error"]["code"]) for line in rest.values()} == {
        (None, "batch_cancelled")
    }
    assert server.stats()["request_lines_executed"] == len(done)
    late = api.http.post(f"/batches/{batch['id']}/cancel")
    assert late.status_code == 409
    assert "cancelled" in late.json()["error"]["message"]


def test_cancel_at_once(server: DevServer, api: Api, clock: Clock) -> None:
    """A batch can be cancelled before its file was read; then no request is executed."""
    batch = api.create([api.line("a"), api.line("b")])
    assert api.http.post(f"/batches/{batch['id']}/cancel").json()["status"] == "cancelling"
    clock.now += 10
    seen = api.wait(batch["id"])
    assert (seen["status"], seen["output_file_id"]) == ("cancelled", None)
    assert len(api.results(seen["error_file_id"])) == 2


def test_forced_while_its_file_is_read(
    server: DevServer, api: Api, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that was ended by a test does not change when the worker has read its file."""
    read, forced = threading.Event(), threading.Event()

    def slow(*args: Any, **kwargs: Any) -> InputCheck:
        check = check_file(*args, **kwargs)
        read.set()
        assert forced.wait(10)
        return check

    monkeypatch.setattr(lifecycle, "check_file", slow)
    batch = api.create([api.line()])
    assert read.wait(10)
    server.force(batch["id"], status="failed")
    seen = api.get(batch["id"])
    forced.set()
    validated(api, api.create([api.line()]))  # the worker reads this file after the other
    assert api.get(batch["id"]) == seen
    assert (seen["status"], seen["model"]) == ("failed", None)


def test_expiry(server: DevServer, api: Api, clock: Clock) -> None:
    """When the window ends first, the batch expires with what was executed by then."""
    server.settings(window_seconds=50)
    batch = api.create([api.line(f"r{number}") for number in range(MANY)])
    validated(api, batch)
    clock.now += 10
    api.get(batch["id"])
    clock.now += 40
    assert api.get(batch["id"])["status"] == "finalizing"
    clock.now += 10
    seen = api.wait(batch["id"])
    assert (seen["status"], seen["expired_at"]) == ("expired", clock.now)
    assert seen["expires_at"] == seen["created_at"] + 50
    done, rest = api.results(seen["output_file_id"]), api.results(seen["error_file_id"])
    assert len(done) == seen["request_counts"]["completed"] == MANY // 2
    assert len(done | rest) == MANY
    assert {(line["response"], line["error"]["code"]) for line in rest.values()} == {(None, "batch_expired")}


def test_requests_that_ask_to_expire_or_to_be_omitted(server: DevServer, api: Api) -> None:
    """A request that asks to expire makes the batch expire; an omitted one is counted, but is in no file."""
    lines = [api.line("a"), api.line("b", quirk="expire"), api.line("c", quirk="omit")]
    seen = server.force(api.create(lines)["id"], status="completed")
    assert seen["status"] == "expired"
    assert seen["request_counts"] == {"total": 3, "completed": 2, "failed": 0}
    assert list(api.results(seen["output_file_id"])) == ["a"]
    assert list(api.results(seen["error_file_id"])) == ["b"]
    assert server.stats()["request_lines_paid"] == 2


def test_quirks_for_the_first_runs_only(server: DevServer, api: Api) -> None:
    """With *1 only the first run of a request fails; the runs are counted."""
    lines = [api.line("a", quirk="fail:500*1")]
    first = server.force(api.create(lines)["id"], status="completed")
    second = server.force(api.create(lines)["id"], status="completed")
    third = server.force(api.create([api.line("other")])["id"], status="completed")
    completed = [batch["request_counts"]["completed"] for batch in (first, second, third)]
    assert completed == [0, 1, 1]
    stats = server.stats()
    assert (stats["request_lines_executed"], stats["executed_more_than_once"]) == (3, 1)
    assert (stats["request_lines_paid"], stats["paid_more_than_once"]) == (2, 0)


def test_the_same_file_gives_the_same_results(server: DevServer, api: Api) -> None:
    """Answers and their order depend only on the requests and the seed."""
    lines = [api.line(f"r{number}") for number in range(MANY)]
    files = [server.force(api.create(lines)["id"], status="completed")["output_file_id"] for _ in range(2)]
    server.settings(seed=1)
    files.append(server.force(api.create(lines)["id"], status="completed")["output_file_id"])
    first, second, other = (list(api.results(file)) for file in files)
    assert first == second != other


def test_frozen_time_does_not_count(server: DevServer, api: Api, clock: Clock) -> None:
    """After a freeze a batch still takes as long as it would have taken without."""
    batch = api.create([api.line()])
    validated(api, batch)
    clock.now += 5
    server.settings(freeze=True)
    clock.now += 1000
    server.settings(freeze=False)
    clock.now += 4
    assert api.get(batch["id"])["status"] == "validating"
    clock.now += 1
    assert api.get(batch["id"])["status"] == "in_progress"


def test_the_largest_batch(api: Api) -> None:
    """50,000 requests are read and answered, and meanwhile the server goes on answering others."""
    count, slowest = 50_000, 0.0
    with DevServer(batch_seconds=0.1) as real:
        api.http.base_url = real.base_url
        batch = api.create([api.line(f"r{number}") for number in range(count)])
        began = time.monotonic()
        while batch["status"] != "completed":
            assert time.monotonic() - began < 60
            time.sleep(0.02)
            asked = time.monotonic()
            batch = api.get(batch["id"])
            slowest = max(slowest, time.monotonic() - asked)
        took = time.monotonic() - began
        assert batch["request_counts"] == {"total": count, "completed": count, "failed": 0}
        assert len(api.results(batch["output_file_id"])) == count
    # A share, because a busy machine slows both down.
    assert slowest < took / 3


def test_timers(server: DevServer, api: Api, clock: Clock) -> None:
    """A batch ends in real time, and its files are written, although nobody asks for it."""
    with DevServer(batch_seconds=0.1) as real:
        api.http.base_url = real.base_url
        api.create([api.line()])
        wait_until(lambda: real.service.tally.executed and not real.service.lifecycle.running)
        assert real.stats()["batches"]["by_status"] == {"completed": 1}
