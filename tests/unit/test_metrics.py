"""What is counted, under which name and with which tags; counting never fails a task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_openai_batches.api.models import (
    Batch,
    BatchRequestCounts,
    BatchUsage,
    InputTokensDetails,
    OutputTokensDetails,
)
from airflow_provider_openai_batches.observability import metrics
from airflow_provider_openai_batches.pricing.prices import Prices
from airflow_provider_openai_batches.pricing.rates import Rates

if TYPE_CHECKING:
    from collections.abc import Iterator

METADATA = {"airflow_dag_id": "d", "airflow_task_id": "t", "airflow_key": "secret-looking"}
TAGS = {"dag_id": "d", "task_id": "t", "model": "m"}


class Recorder:
    """A backend for Airflow's stats that keeps what it gets."""

    def __init__(self) -> None:
        self.sent: dict[str, tuple[str, float, Any]] = {}
        self.error: Exception | None = None

    def _keep(self, kind: str, name: str, value: float, tags: Any = None) -> None:
        if self.error:
            raise self.error
        self.sent[name.removeprefix("openai_batches.")] = (kind, value, tags or None)

    def incr(self, name: str, count: float = 1, *, tags: Any = None) -> None:
        self._keep("incr", name, count, tags)

    def gauge(self, name: str, value: float, *, tags: Any = None) -> None:
        self._keep("gauge", name, value, tags)

    def timing(self, name: str, value: float, *, tags: Any = None) -> None:
        self._keep("timing", name, value, tags)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    """Airflow's stats with a backend that records."""
    from airflow.providers.common.compat import sdk

    stats: Any = sdk.Stats  # its type differs between Airflow versions
    backend = Recorder()
    if hasattr(type(stats), "factory"):  # until Airflow 3.2
        monkeypatch.setattr(stats, "factory", staticmethod(lambda: backend))  # where initialize() sets it too
        monkeypatch.setattr(stats, "instance", None)
        yield backend
    else:
        from airflow._shared.observability.metrics.base_stats_logger import NoStatsLogger

        stats.initialize(factory=lambda: backend, export_legacy_names=True)
        yield backend
        stats.initialize(factory=NoStatsLogger, export_legacy_names=True)


def batch(**changes: Any) -> Batch:
    return Batch(**{"id": "b", "model": "m", "metadata": METADATA, "created_at": 100, **changes})


def test_created_and_adopted(recorder: Recorder) -> None:
    """One count each, tagged with DAG, task and model, and with nothing else from the metadata."""
    metrics.batch_created(batch())
    metrics.batch_adopted(batch(model=None))
    assert recorder.sent == {
        "batch.created": ("incr", 1, TAGS),
        "batch.adopted": ("incr", 1, {"dag_id": "d", "task_id": "t"}),
    }


@pytest.mark.parametrize("status", ["completed", "failed", "expired", "cancelled"])
def test_over(recorder: Recorder, status: str) -> None:
    """Status, outcomes, tokens by kind, and the time from creation to end in milliseconds."""
    usage = BatchUsage(10, InputTokensDetails(4), 20, OutputTokensDetails(5), 30)
    counts = BatchRequestCounts(total=10, completed=7, failed=2)
    metrics.batch_over(batch(status=status, usage=usage, request_counts=counts, **{f"{status}_at": 160}))
    assert {name: value for name, (_, value, _) in recorder.sent.items()} == {
        f"batch.{status}": 1,
        "requests.completed": 7,
        "requests.failed": 2,
        "requests.unfinished": 1,
        "tokens.input": 10,
        "tokens.cached": 4,
        "tokens.output": 20,
        "tokens.reasoning": 5,
        "batch.duration": 60_000.0,
    }
    assert recorder.sent["batch.duration"] == ("timing", 60_000.0, TAGS)


USAGE = BatchUsage(10, InputTokensDetails(4), 20, OutputTokensDetails(5), 30)
# 6 x 0.25 + 4 x 0.025 + 20 x 2, at half the price, for a million.
RATES = Rates(input=0.25, cached_input=0.025, output=2.0)
USD = (6 * 0.25 + 4 * 0.025 + 20 * 2) / 2 / 1e6


def test_the_cost_of_a_batch(recorder: Recorder) -> None:
    """In US dollars with all of their fractions."""
    counts = BatchRequestCounts(total=2, completed=2)
    ended = batch(status="completed", usage=USAGE, request_counts=counts)
    metrics.batch_over(ended, Prices({"m": RATES}))
    kind, usd, tags = recorder.sent["cost"]
    assert usd == pytest.approx(USD, abs=1e-9)
    assert (kind, tags) == ("incr", {**TAGS, "way": "batch"})


@pytest.mark.parametrize(
    "changes", [{"usage": USAGE, "model": "other"}, {"usage": None}, {"usage": BatchUsage()}]
)
def test_no_cost_where_none_is_known(recorder: Recorder, changes: dict[str, Any]) -> None:
    """No price, no tokens, or nothing to pay."""
    metrics.batch_over(batch(status="completed", **changes), Prices({"m": RATES}))
    assert "cost" not in recorder.sent


def test_the_cost_of_live_answers(recorder: Recorder) -> None:
    """It is told from that of batches by a tag."""
    metrics.cost(0.0125, "d", "t", "m", "live")
    metrics.cost(0.0, "d", "t", "free", "live")
    assert recorder.sent == {"cost": ("incr", 0.0125, {**TAGS, "way": "live"})}


def test_over_with_next_to_nothing(recorder: Recorder) -> None:
    """A batch without counts, usage and times is counted too."""
    metrics.batch_over(Batch(id="b", status="completed"))
    assert recorder.sent == {"batch.completed": ("incr", 1, None)}


def test_pollers(recorder: Recorder) -> None:
    """Waits are a gauge, rounds and requests are counts; a count of 0 is not sent."""
    metrics.waits(0, "c")
    metrics.poll_round(10, 0, "c")
    assert recorder.sent == {
        "poller.waits": ("gauge", 0, {"conn_id": "c"}),
        "poller.rounds": ("incr", 1, {"conn_id": "c"}),
        "poller.requests": ("incr", 10, {"conn_id": "c"}),
    }
    metrics.poll_round(1, 3)
    assert recorder.sent["poller.rate_limited"] == ("incr", 3, None)


def test_a_tag_that_would_break_the_notation_is_left_out(recorder: Recorder) -> None:
    """InfluxDB's tags end at a comma."""
    metrics.batch_created(batch(model="a,b=c"))
    assert recorder.sent["batch.created"][2] == {"dag_id": "d", "task_id": "t"}


def test_never_raises(recorder: Recorder) -> None:
    """A broken backend loses the metric and nothing else."""
    recorder.error = RuntimeError("no")
    metrics.batch_over(batch(status="completed", completed_at=101))
    metrics.waits(1)
    assert recorder.sent == {}
