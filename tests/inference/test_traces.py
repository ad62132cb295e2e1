"""Airflow's traces have a span for each job that is over, and below it one for each of its batches."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred
from inferencekit import again, job, rows, waits
from pricekit import connect
from support import ENDPOINT, first_event, fresh, rebuilt, request_lines, resume, run_task, task_context
from tracekit import Collector, Got, configured

from airflow_provider_openai_batches.exceptions import BatchFailed
from airflow_provider_openai_batches.hooks.openai_batches import OpenAIBatchesHook
from airflow_provider_openai_batches.observability import traces
from airflow_provider_openai_batches.operators.inference import OpenAIBatchInferenceOperator
from airflow_provider_openai_batches.operators.openai_batches import OpenAICreateBatchOperator
from airflow_provider_openai_batches.sensors.openai_batches import OpenAIBatchSensor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_openai_batches.devserver import DevServer

TRACE, TASK = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CARRIER = {"traceparent": f"00-{TRACE}-{TASK}-01"}
# A dollar for each token of the output, in batches, and nothing for the input.
PRICES = {"gpt-5-mini": {"input": 0, "output": 2_000_000}}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector, configured(collector):
        yield collector


def traced(operator: Any, **given: Any) -> Any:
    """The context of a task with a span of its own."""
    context = task_context(operator, **given)
    context["ti"].context_carrier = CARRIER
    return context


def spans(collector: Collector) -> tuple[list[Got], list[Got]]:
    """Jobs, and batches."""
    return collector.named("invoke_workflow"), collector.named("chat")


def test_a_job_of_two_rounds(server: DevServer, out: Path, collector: Collector) -> None:
    """The names are those of the conventions; the times are those of the service."""
    connect({"prices": PRICES})
    operator = job(out, requests=rows(6, {0: "fail:429*1"}), max_requests_per_batch=3)
    began = time.time()
    summary = run_task(operator, traced(operator))
    (whole,), batches = spans(collector)
    assert (whole.trace_id, whole.parent_id, whole.name) == (TRACE, TASK, "invoke_workflow dag.t")
    assert {batch.parent_id for batch in batches} == {whole.span_id}
    assert int(began) <= whole.began <= min(batch.began for batch in batches)
    assert max(batch.ended for batch in batches) <= whole.ended <= time.time()
    usage = summary["usage"]
    assert whole.attributes == {
        "gen_ai.operation.name": "invoke_workflow",
        "gen_ai.workflow.name": "dag.t",
        "gen_ai.provider.name": "openai",
        "server.address": "127.0.0.1",
        "server.port": urlsplit(server.base_url).port,
        "airflow.dag_id": "dag",
        "airflow.task_id": "t",
        "airflow.dag_run.run_id": "run",
        "airflow.task_instance.map_index": -1,
        "airflow.task_instance.try_number": 1,
        "openai_batches.endpoint": ENDPOINT,
        "openai_batches.models": ["gpt-5-mini"],
        "openai_batches.rows.total": 6,
        "openai_batches.rows.succeeded": 6,
        "openai_batches.rounds": 1,
        "openai_batches.batches.total": 3,
        "openai_batches.batches.shown": 3,
        "openai_batches.batches.running": 0,
        "openai_batches.batches.rejected": 0,
        "openai_batches.usage.input_tokens": usage["input_tokens"],
        "openai_batches.usage.cache_read.input_tokens": usage["cached_tokens"],
        "openai_batches.usage.output_tokens": usage["output_tokens"],
        "openai_batches.usage.reasoning.output_tokens": usage["reasoning_tokens"],
        "openai_batches.cost_usd": usage["output_tokens"],
    }
    assert sum(batch.attributes["gen_ai.usage.output_tokens"] for batch in batches) == usage["output_tokens"]
    stored = {batch["id"]: batch for batch in server.batches()}
    for batch in batches:
        found = stored[batch.attributes["openai_batches.batch_id"]]
        assert (batch.began, batch.ended) == (found["created_at"], found["completed_at"])
    (last,) = [batch for batch in batches if batch.attributes["openai_batches.round"] == 1]
    used = stored[last.attributes["openai_batches.batch_id"]]["usage"]
    tokens = used["output_tokens"]
    assert last.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-5-mini",
        "gen_ai.response.model": "gpt-5-mini",
        "gen_ai.usage.input_tokens": used["input_tokens"],
        "gen_ai.usage.cache_read.input_tokens": used["input_tokens_details"]["cached_tokens"],
        "gen_ai.usage.output_tokens": tokens,
        "gen_ai.usage.reasoning.output_tokens": used["output_tokens_details"]["reasoning_tokens"],
        "openai.api.type": "chat_completions",
        "server.address": "127.0.0.1",
        "server.port": urlsplit(server.base_url).port,
        "openai_batches.batch_id": last.attributes["openai_batches.batch_id"],
        "openai_batches.status": "completed",
        "openai_batches.endpoint": ENDPOINT,
        "openai_batches.requests.total": 1,
        "openai_batches.requests.completed": 1,
        "openai_batches.requests.failed": 0,
        "openai_batches.round": 1,
        "openai_batches.shard": 2,
        "openai_batches.cost_usd": float(tokens),
    }
    assert not any(span.is_error for span in [whole, *batches])


def rejected(server: DevServer, operator: Any) -> int:
    """Run a try whose second of three batches is rejected, and return when the service says it was."""
    context = traced(operator)
    with pytest.raises(TaskDeferred) as deferral:
        operator.execute(context)
    first, second, third = deferral.value.trigger.batch_ids
    at = int(time.time()) + 5
    server.force(second, status="failed", failed_at=at)
    for batch_id in (first, third):
        server.force(batch_id, status="completed")
    statuses = {first: "completed", second: "failed", third: "completed"}
    event = {"status": "finished", "message": "", "batches": statuses}
    with pytest.raises(BatchFailed):
        resume(fresh(operator), context, event, deferral.value.kwargs)
    return at


def test_a_rejected_batch_and_the_next_try(server: DevServer, out: Path, collector: Collector) -> None:
    """The try that fails is an error, and so is the batch; what the next try does not repeat is told once."""
    operator = job(out, requests=rows(9), max_requests_per_batch=3)
    at = rejected(server, operator)
    (failed,), batches = spans(collector)
    assert (failed.is_error, failed.attributes["error.type"]) == (True, "BatchFailed")
    assert failed.attributes["openai_batches.batches.rejected"] == 1
    assert "openai_batches.rows.succeeded" not in failed.attributes
    (bad,) = [batch for batch in batches if batch.is_error]
    assert len(batches) == 3
    assert bad.attributes["error.type"] == "server_error"
    assert bad.attributes["openai_batches.status"] == "failed"
    assert bad.ended == at
    context = traced(operator, try_number=2)
    run_task(fresh(operator), context)
    (first, second), batches = spans(collector)
    assert first == failed
    assert not second.is_error
    assert second.attributes["airflow.task_instance.try_number"] == 2
    assert [batch.parent_id for batch in batches].count(second.span_id) == 1
    ids = [batch.attributes["openai_batches.batch_id"] for batch in batches]
    assert sorted(ids) == sorted(batch["id"] for batch in server.batches())


def test_a_try_that_finds_the_job_done(server: DevServer, out: Path, collector: Collector) -> None:
    """It makes no span."""
    operator = job(out, requests=rows(2))
    run_task(operator)
    again(operator)
    assert [len(found) for found in spans(collector)] == [1, 1]


def test_a_dry_run_and_a_refused_job(server: DevServer, out: Path, collector: Collector) -> None:
    """Nothing was sent, so nothing is told."""
    run_task(job(out, requests=rows(2), dry_run=True))
    connect({"prices": PRICES})
    with pytest.raises(Exception, match="max_cost"):
        run_task(job(out, requests=rows(2), max_cost=0.01))
    assert collector.spans == []


def test_an_error_while_batches_run(server: DevServer, out: Path, collector: Collector) -> None:
    """The batches that run are counted; the next try tells of them."""
    server.settings(batch_seconds=60)
    operator = job(out, requests=rows(4), max_requests_per_batch=2, cancel_on_timeout=False)
    with pytest.raises(TaskDeferred) as deferral:
        operator.execute(traced(operator))
    first, second = deferral.value.trigger.batch_ids
    server.force(first, status="completed")
    event = {"status": "timeout", "message": "over.", "batches": {first: "completed", second: "in_progress"}}
    with pytest.raises(Exception, match="over"):
        resume(fresh(operator), traced(operator), event, {**(deferral.value.kwargs or {}), "until": None})
    (failed,), batches = spans(collector)
    assert failed.attributes["error.type"] == "BatchTimeout"
    assert (len(batches), failed.attributes["openai_batches.batches.running"]) == (0, 2)
    server.force(second, status="completed")
    again(operator)
    assert len(spans(collector)[1]) == 2


def test_the_span_of_a_try_that_was_deferred_twice(
    server: DevServer, out: Path, collector: Collector
) -> None:
    """It is that of the process in which the try began: Airflow 3.0 and 3.1 have one for each process."""
    server.settings(batch_seconds=60)
    operator = job(out, requests=rows(1, {0: "fail:429*1"}))
    context = traced(operator)
    with pytest.raises(TaskDeferred) as first:
        operator.execute(context)
    context["ti"].context_carrier = {"traceparent": f"00-{TRACE}-{'1' * 16}-01"}
    with pytest.raises(TaskDeferred) as second:
        resume(fresh(operator), context, _ended(server, first.value), first.value.kwargs)
    context["ti"].context_carrier = {"traceparent": f"00-{TRACE}-{'2' * 16}-01"}
    resume(fresh(operator), context, _ended(server, second.value), second.value.kwargs)
    (whole,), _ = spans(collector)
    assert (whole.trace_id, whole.parent_id) == (TRACE, TASK)


def _ended(server: DevServer, wait: Any) -> Any:
    """End what a task waits for, and return the event."""
    for batch_id in wait.trigger.batch_ids:
        server.force(batch_id, status="completed")
    return asyncio.run(first_event(rebuilt(wait.trigger)))


def test_a_job_that_is_complete_before_the_task_fails(
    server: DevServer, out: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its results are written, and a load into a table fails: the job has one span, without an error."""

    def refuse(*_: object) -> Any:
        raise RuntimeError("no database")

    monkeypatch.setattr(OpenAIBatchInferenceOperator, "with_table", refuse)
    with pytest.raises(RuntimeError):
        run_task(job(out, requests=rows(1)))
    (whole,), _ = spans(collector)
    assert not whole.is_error


@pytest.mark.parametrize("deferrable", [True, False])
def test_single_batches(server: DevServer, collector: Collector, *, deferrable: bool) -> None:
    """An operator that waits, and a sensor, make a span below the task's."""
    hook = OpenAIBatchesHook()
    file_id = hook.upload_file(_file(), "in.jsonl").id
    create = OpenAICreateBatchOperator(
        task_id="c", endpoint=ENDPOINT, input_file_id=file_id, poll_interval=0.05, deferrable=deferrable
    )
    run_task(create, traced(create))
    other = hook.create_batch(file_id, ENDPOINT).id
    sensor = OpenAIBatchSensor(task_id="s", batch_id=other, poll_interval=0.05, deferrable=deferrable)
    run_task(sensor, traced(sensor))
    jobs, batches = spans(collector)
    assert jobs == []
    assert {(batch.trace_id, batch.parent_id) for batch in batches} == {(TRACE, TASK)}
    assert {batch.attributes["airflow.task_id"] for batch in batches} == {"c", "s"}
    assert {batch.attributes["gen_ai.response.model"] for batch in batches} == {"gpt-5-mini"}


def _file() -> Any:
    import io

    return io.BytesIO(request_lines())


def test_nothing_secret_and_no_prompt(server: DevServer, out: Path, collector: Collector) -> None:
    """Neither in a job that succeeds nor in one that fails with an error that has an answer in it."""
    operator = job(out, requests=rows(3, {0: "fail:400", 1: "fail:400", 2: "fail:400"}), max_rounds=0)
    with pytest.raises(BatchFailed, match="Not one"):
        run_task(operator, traced(operator))
    assert len(collector.spans) == 2
    sent = b"".join(collector.bodies)
    for secret in ("test-key", "row 0", "devserver", "fail:400"):
        assert secret.encode() not in sent


def test_off(server: DevServer, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole job and an operator that waits do not import OpenTelemetry, and carry nothing."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "opentelemetry"]:
        monkeypatch.delitem(sys.modules, name)
    operator = job(out, requests=rows(2))
    deferrals = list(waits(operator))
    assert deferrals
    assert all("carrier" not in (deferral.kwargs or {}) for deferral in deferrals)
    file_id = OpenAIBatchesHook().upload_file(_file(), "in.jsonl").id
    create = OpenAICreateBatchOperator(
        task_id="c", endpoint=ENDPOINT, input_file_id=file_id, poll_interval=0.05
    )
    run_task(create, traced(create))
    assert [name for name in sys.modules if name.partition(".")[0] == "opentelemetry"] == []


def test_a_job_with_more_batches_than_a_trace_takes(collector: Collector) -> None:
    """Those that failed come first; the number of all is said."""
    ended = [_batch(f"b{n}", error="expired" if n == 1_500 else None) for n in range(1_501)]
    described = traces.JobSpan("d.t", "https://api.openai.com/v1", 100, 300, None, ended, {"long": "x" * 999})
    assert traces.job_over(lambda: described, CARRIER)
    (whole,), batches = spans(collector)
    assert len(batches) == traces.MAX_BATCHES
    assert [batch.attributes["error.type"] for batch in batches if batch.is_error] == ["expired"]
    assert whole.attributes["openai_batches.batches.total"] == 1_501
    assert whole.attributes["openai_batches.batches.shown"] == traces.MAX_BATCHES
    assert len(whole.attributes["long"]) == traces.MAX_TEXT
    assert whole.attributes["server.port"] == 443
    assert whole.began == 50  # its first batch began earlier than this try


def _batch(batch_id: str, **given: Any) -> traces.BatchSpan:
    return traces.BatchSpan(batch_id, "completed", "/v1/chat/completions", 50, 200, **given)


@pytest.mark.parametrize(
    ("endpoint", "operation"),
    [
        ("/v1/responses", "chat"),
        ("/chat/completions", "chat"),
        ("/v1/completions", "text_completion"),
        ("/v1/embeddings", "embeddings"),
        ("/v1/images/generations", "generate_content"),
        ("/v1/images/edits", "generate_content"),
        ("/v1/videos", "generate_content"),
        ("/v1/moderations", "moderations"),
        ("", "batch"),
    ],
)
def test_the_names_of_operations(collector: Collector, endpoint: str, operation: str) -> None:
    """Those of the conventions, where they have one."""
    batch = _batch("b", model="m")._replace(endpoint=endpoint)
    traces.job_over(lambda: traces.JobSpan("d.t", "https://x.test", 1, 2, None, [batch], {}), None)
    (found,) = [span for span in collector.spans if span.parent_id]
    assert (found.name, found.attributes["gen_ai.operation.name"]) == (f"{operation} m", operation)


@pytest.mark.parametrize(
    ("base_url", "provider"),
    [
        ("https://api.openai.com/v1", "openai"),
        ("https://mine.openai.azure.com/openai", "azure.ai.openai"),
        ("https://api.groq.com/openai/v1", "groq"),
        ("https://api.mistral.ai/v1", "mistral_ai"),
        ("https://my.openai.azure.com.example.org/v1", "openai"),
    ],
)
def test_the_names_of_providers(collector: Collector, base_url: str, provider: str) -> None:
    """Whoever speaks OpenAI's language, and has no name there, is called so."""
    traces.job_over(lambda: traces.JobSpan("d.t", base_url, 1, 2, None, [_batch("b")], {}), None)
    assert {span.attributes["gen_ai.provider.name"] for span in collector.spans} == {provider}


def test_never_raises(server: DevServer, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job whose spans cannot be made is complete."""

    def broken(*_: object) -> Any:
        raise RuntimeError("no tracer")

    monkeypatch.setenv("AIRFLOW__TRACES__OTEL_ON", "True")
    monkeypatch.setattr(traces, "tracer", broken)
    assert run_task(job(out, requests=rows(1)))["counts"]["succeeded"] == 1
    monkeypatch.setenv("AIRFLOW__TRACES__OTEL_ON", "perhaps")
    assert run_task(job(out.with_name("other"), requests=rows(1)))["counts"]["succeeded"] == 1


DAG = """
from airflow.sdk import DAG
from airflow_provider_openai_batches.operators.inference import OpenAIBatchInferenceOperator

with DAG("traced", schedule=None):
    OpenAIBatchInferenceOperator(
        task_id="ask",
        endpoint="/v1/chat/completions",
        model="gpt-5-mini",
        requests=[{"text": "a", "marker": "fail:429*1"}, {"text": "b", "marker": ""}],
        body={
            "messages": [{"role": "user", "content": "{text}"}],
            "metadata": {"devserver": "{marker}"},
        },
        output_uri=OUT,
        poll_interval=0.1,
    )
"""


@pytest.mark.timeout(300)
def test_a_dag(airflow_database: dict[str, str], server: DevServer, out: Path, collector: Collector) -> None:
    """In Airflow's own test runner, which tells a task of its span in some releases only."""
    dag = out.with_name("traced.py")
    dag.write_text(f"OUT = {str(out)!r}\n{DAG}")
    runner = Path(__file__).parents[1] / "dag_runner.py"
    command = [sys.executable, "-W", "ignore", str(runner), str(dag), "{}"]
    environment = {**airflow_database, **server.environment, **collector.environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert json.dumps({"ask": "success"}) in done.stdout
    (whole,), batches = spans(collector)
    assert whole.attributes["openai_batches.rounds"] == 1
    assert [batch.parent_id for batch in batches] == [whole.span_id] * 2
