"""What holds work back in a real Airflow: docs/deploy.md says so, and here it is seen."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support import request_lines

if TYPE_CHECKING:
    from airflow_stack import AirflowStack

    from airflow_provider_openai_batches.devserver import DevServerClient

pytestmark = [pytest.mark.live, pytest.mark.long, pytest.mark.timeout(300)]
KEY = "sk-live-test-key-that-must-show-nowhere"
ROWS, OF_A_BATCH, MODEL = 60, 20, "gpt-5-nano"
TOO_LATE = 1e12


@pytest.fixture
def work(airflow: AirflowStack, service: DevServerClient) -> Path:
    service.reset()
    work = Path(airflow.environment["LIVE_WORK"])
    (work / "limits-requests.jsonl").write_bytes(request_lines())
    rows = ({"key": f"k{number}", "text": f"question {number}, {'word ' * 40}"} for number in range(ROWS))
    (work / "limits.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return work


def most_at_once(spans: list[dict[str, Any]], weight: str | None = None) -> int:
    """The most batches, or the most of what each of them has, that were at the service at a time."""
    taken = [span for span in spans if not span["rejected"]]
    return max(
        sum(
            other[weight] if weight else 1
            for other in taken
            if other["created"] <= span["created"] < (other["over"] or TOO_LATE)
        )
        for span in taken
    )


class Pooled:
    """Four mapped tasks in a pool of two slots, whose batches end when they are told to."""

    def __init__(self, airflow: AirflowStack, service: DevServerClient, pool: str) -> None:
        self.airflow, self.service, self.dag = airflow, service, f"{pool}_pool"
        self.run = airflow.trigger(self.dag)
        self.most = 0

    def states(self) -> Counter[str]:
        states = Counter(str(task["state"]) for task in self.airflow.tasks(self.dag, self.run))
        self.most = max(self.most, states["deferred"] + states["running"])
        return states

    def wait_for(self, **wanted: int) -> None:
        def is_so() -> bool:
            states = self.states()
            return all(states[state] == count for state, count in wanted.items())

        self.airflow.wait_until(is_so, 90, f"the states are {wanted}", lambda: str(self.states()))

    def end_batches(self) -> None:
        for batch in self.service.batches():
            if batch["status"] in {"validating", "in_progress"}:
                self.service.force(batch["id"], status="completed")


def pool(airflow: AirflowStack, name: str, *, include_deferred: bool) -> None:
    airflow.api("POST", "/pools", json={"name": name, "slots": 2, "include_deferred": include_deferred})


def test_a_pool_with_its_deferred_tasks_bounds_the_batches(
    airflow: AirflowStack, service: DevServerClient, work: Path
) -> None:
    pool(airflow, "live_with_waits", include_deferred=True)
    service.settings(batch_seconds=600)
    tasks = Pooled(airflow, service, "live_with_waits")
    tasks.wait_for(deferred=2)
    assert len(service.batches()) == 2
    tasks.end_batches()
    tasks.wait_for(deferred=2, success=2)
    tasks.end_batches()
    tasks.wait_for(success=4)
    assert tasks.most == 2
    assert len(service.batches()) == 4


def test_a_pool_without_them_bounds_only_the_work_of_the_tasks(
    airflow: AirflowStack, service: DevServerClient, work: Path
) -> None:
    pool(airflow, "live_without_waits", include_deferred=False)
    service.settings(batch_seconds=600)
    tasks = Pooled(airflow, service, "live_without_waits")
    tasks.wait_for(deferred=4)
    assert len(service.batches()) == 4
    tasks.end_batches()
    tasks.wait_for(success=4)


def test_a_job_has_no_more_batches_than_it_may(
    airflow: AirflowStack, service: DevServerClient, work: Path
) -> None:
    service.settings(batch_seconds=3)
    run = airflow.trigger("live_one_at_a_time")
    assert airflow.wait_for_run("live_one_at_a_time", run) == "success"
    spans = service.timeline()
    assert len(spans) == ROWS // OF_A_BATCH
    assert most_at_once(spans) == 1


def test_dags_that_share_a_token_limit_take_turns(
    airflow: AirflowStack, service: DevServerClient, work: Path
) -> None:
    """Nine batches of three DAGs, of which the account takes four at a time."""
    prompt = len((work / "limits.jsonl").read_bytes()) // 4 // (ROWS // OF_A_BATCH)
    limit = prompt * 5  # each batch has somewhat more tokens than its rows: the rest of the body
    service.settings(batch_seconds=4, enqueued_token_limits={MODEL: limit})
    limited = {"conn_type": "openai_batches", "host": service.base_url, "password": KEY}
    extra = json.dumps({"enqueued_token_limits": {MODEL: limit}})
    airflow.api("POST", "/connections", json={"connection_id": "live_limited", **limited, "extra": extra})
    dags = [f"live_shared_limit_{number}" for number in (1, 2, 3)]
    runs = [airflow.trigger(dag) for dag in dags]
    assert [airflow.wait_for_run(dag, run) for dag, run in zip(dags, runs, strict=True)] == ["success"] * 3
    spans = service.timeline()
    assert most_at_once(spans, "tokens") <= limit
    assert most_at_once(spans) > 1
    # The first batch of each is sent even if it does not fit, to show that the job waits.
    assert sum(span["rejected"] is not None for span in spans) <= len(dags)
    stats = service.stats()
    assert stats["request_lines_paid"] == 3 * ROWS
    assert stats["paid_more_than_once"] == stats["batches"]["running"] == 0
