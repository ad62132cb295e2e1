"""The operators against the dev server: what they ask, return, push and raise."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred
from support import ENDPOINT, request_lines, run_task, task_context, until

from airflow_provider_openai_batches.exceptions import (
    APIError,
    BatchCancelled,
    BatchExpired,
    BatchFailed,
    BatchTimeout,
    InvalidInputError,
    TaskKilled,
)
from airflow_provider_openai_batches.hooks import openai_batches
from airflow_provider_openai_batches.hooks.openai_batches import OpenAIBatchesHook
from airflow_provider_openai_batches.operators.base import raise_unless_good
from airflow_provider_openai_batches.operators.openai_batches import (
    OpenAICancelBatchOperator,
    OpenAICreateBatchOperator,
    OpenAIDownloadBatchResultsOperator,
    OpenAIListBatchesOperator,
    OpenAIRetrieveBatchOperator,
)

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_openai_batches.devserver import DevServer


@pytest.fixture
def input_file(tmp_path: Path) -> str:
    path = tmp_path / "in.jsonl"
    path.write_bytes(request_lines())
    return str(path)


def create(input_file: str | None = None, **kwargs: Any) -> OpenAICreateBatchOperator:
    kwargs = {"task_id": "t", "endpoint": ENDPOINT, "poll_interval": 0.1, "input_file": input_file, **kwargs}
    return OpenAICreateBatchOperator(**kwargs)


def lines_with(marker: str, count: int = 3) -> bytes:
    """Request lines that the dev server treats specially."""
    lines = [json.loads(line) for line in request_lines(count).splitlines()]
    for line in lines:
        line["body"]["metadata"] = {"devserver": marker}
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


@pytest.mark.parametrize("deferrable", [True, False])
def test_create_uploads_submits_and_waits(server: DevServer, input_file: str, *, deferrable: bool) -> None:
    """From a file to a completed batch, in the triggerer or in the worker."""
    operator = create(input_file, deferrable=deferrable)
    context = task_context(operator)
    result = run_task(operator, context)
    assert result["status"] == "completed"
    assert result["request_counts"] == {"total": 3, "completed": 3, "failed": 0}
    assert context["ti"].xcoms["batch_id"] == result["id"]
    requests = server.stats()["requests"]
    assert (requests["upload_file"], requests["create_batch"]) == (1, 1)
    assert "list_files" not in requests


def test_create_from_a_file_id_does_not_wait_if_told_so(server: DevServer, input_file: str) -> None:
    """It returns as soon as the batch exists."""
    file = OpenAIBatchesHook().upload_file(input_file)
    result = create(input_file_id=file.id, wait_for_completion=False).execute(
        task_context(create(input_file))
    )
    assert result["input_file_id"] == file.id
    assert result["status"] in {"validating", "in_progress"}
    assert "retrieve_batch" not in server.stats()["requests"]


def test_the_batch_carries_its_task(server: DevServer, input_file: str) -> None:
    """The metadata lets a later try find the batch, and shows people whose it is."""
    operator = create(input_file, metadata={"team": "a"}, wait_for_completion=False)
    operator.execute(task_context(operator, map_index=4, run_id="manual__1"))
    metadata = server.batches()[0]["metadata"]
    assert metadata.pop("airflow_key")
    assert metadata == {
        "team": "a",
        "airflow_dag_id": "dag",
        "airflow_run_id": "manual__1",
        "airflow_task_id": "t",
        "airflow_map_index": "4",
    }


def test_the_id_is_in_xcom_before_the_task_waits(server: DevServer, input_file: str) -> None:
    """Anybody who looks while the task is deferred finds it."""
    server.settings(freeze=True)
    operator = create(input_file)
    context = task_context(operator)
    with pytest.raises(TaskDeferred) as deferral:
        operator.execute(context)
    assert context["ti"].xcoms == {"batch_id": server.batches()[0]["id"]}
    assert "devserver-key" not in str(deferral.value.trigger.serialize())


def test_the_link_is_stored_where_the_connection_has_a_console(
    server: DevServer, input_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The id is quoted behind the console's address."""
    connection = json.loads(server.environment["AIRFLOW_CONN_OPENAI_BATCHES_DEFAULT"])
    connection["extra"] = {"console_url": "https://console.example/batches/"}
    monkeypatch.setenv("AIRFLOW_CONN_OPENAI_BATCHES_DEFAULT", json.dumps(connection))
    operator = create(input_file, wait_for_completion=False)
    context = task_context(operator)
    batch = operator.execute(context)
    assert context["ti"].xcoms["_link_OpenAIBatchLink"] == f"https://console.example/batches/{batch['id']}"


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"input_file_id": None, "input_file": None}, "this has neither"),
        ({"input_file_id": "file-1", "input_file": "x"}, "this has both"),
        ({"poll_interval": 0}, "poll_interval is 0"),
        ({"poll_interval": -1}, "poll_interval is -1"),
        ({"poll_interval": "60"}, "poll_interval is '60'"),
        ({"batch_timeout": -5}, "batch_timeout is -5"),
        ({"output_expires_after": 5}, "output_expires_after is 5"),
    ],
)
def test_bad_arguments_are_refused_when_the_dag_is_parsed(kwargs: dict[str, Any], said: str) -> None:
    """The DAG does not even import."""
    with pytest.raises(InvalidInputError, match=said):
        create(**{"input_file": "x", **kwargs})


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"endpoint": "v1/x"}, "endpoint is 'v1/x'"),
        ({"input_file": None, "input_file_id": "a/b"}, "input_file_id is 'a/b'"),
        ({"input_file": None, "input_file_id": ""}, "input_file_id is ''"),
        ({"input_file": "/missing.jsonl"}, r"/missing.jsonl cannot be read"),
        ({"metadata": {str(n): "x" for n in range(12)}}, "17 pairs, including those that this provider adds"),
        ({"completion_window": ""}, "completion_window"),
        ({"endpoint": "/v1/responses"}, r"in.jsonl, line 1: url is"),
    ],
)
def test_bad_input_is_refused_before_anything_is_sent(
    server: DevServer, input_file: str, kwargs: dict[str, Any], said: str
) -> None:
    """Templated values are known only when the task runs; nothing is spent then either."""
    operator = create(**{"input_file": input_file, **kwargs})
    with pytest.raises(InvalidInputError, match=said):
        operator.execute(task_context(operator))
    assert server.stats()["requests"] == {}


def test_a_batch_that_fails_validation_raises_its_errors(server: DevServer, input_file: str) -> None:
    """Code, line and message of each error."""
    server.settings(enqueued_token_limit=1)
    with pytest.raises(
        BatchFailed, match=r"failed; nothing ran and nothing is billed.\n  - token_limit_exceeded"
    ):
        run_task(create(input_file))


def test_a_batch_whose_requests_all_failed_raises_the_first_errors(tmp_path: Path, server: DevServer) -> None:
    """Completed is not success."""
    path = tmp_path / "bad.jsonl"
    path.write_bytes(lines_with("fail:400", 12))
    with pytest.raises(
        BatchFailed, match=r"completed, but all 12 requests failed.\n  - \d+: HTTP 400"
    ) as caught:
        run_task(create(str(path)))
    assert str(caught.value).count("\n  - ") == 10
    assert server.stats()["batches"]["by_status"] == {"completed": 1}


@pytest.mark.parametrize(("status", "error"), [("expired", BatchExpired), ("cancelled", BatchCancelled)])
def test_partial_results_are_named(
    server: DevServer, input_file: str, status: str, error: type[Exception]
) -> None:
    """The error names them, because they are paid for."""
    server.settings(freeze=True)
    operator = create(input_file, wait_for_completion=False)
    batch = operator.execute(task_context(operator))
    server.force(batch["id"], status=status, after=0.5)
    with pytest.raises(
        error, match=r"requests were done by then and are paid for: their answers are in file file-"
    ):
        raise_unless_good(OpenAIBatchesHook(), OpenAIBatchesHook().retrieve_batch(batch["id"]))


def test_an_output_id_that_lags_is_waited_for(
    server: DevServer, input_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """completed, but the file's id comes some polls later."""
    monkeypatch.setattr(openai_batches, "SETTLING_PAUSES", (0.1,) * 20)
    server.settings(output_id_lag_seconds=0.5)
    result = run_task(create(input_file))
    assert result["output_file_id"]


def test_a_deadline_cancels_and_says_so(server: DevServer, input_file: str) -> None:
    """Nothing keeps running that nobody waits for."""
    server.settings(freeze=True)
    # On a busy machine the deadline comes before the first look.
    ends = r"(in_progress|validating|was never seen).*Cancelled: batch_\w+ is cancel"
    with pytest.raises(BatchTimeout, match=ends):
        run_task(create(input_file, batch_timeout=0.3))
    assert server.stats()["requests"]["cancel_batch"] == 1


def test_a_deadline_leaves_the_batch_if_told_so(server: DevServer, input_file: str) -> None:
    """And says what goes on."""
    server.settings(freeze=True)
    with pytest.raises(BatchTimeout, match="Nothing was cancelled: it runs on, and is paid for"):
        run_task(create(input_file, batch_timeout=0.3, cancel_on_timeout=False))
    assert "cancel_batch" not in server.stats()["requests"]


def test_a_service_that_goes_away_as_the_wait_ends_is_waited_for(
    server: DevServer, input_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No try is used up for it."""
    monkeypatch.setattr(
        OpenAIBatchesHook.__init__, "__kwdefaults__", {"recovery_seconds": None, "sleep": lambda _: None}
    )
    server.settings(batch_seconds=0.05)
    operator = create(input_file)
    with pytest.raises(TaskDeferred) as deferral:
        operator.execute(task_context(operator))
    until(lambda: server.batches()[0]["status"] == "completed")
    (batch,) = server.batches()
    server.faults([{"operation": "retrieve_batch", "action": "status", "status": 503, "times": 6}])
    event = {"status": "finished", "message": "", "batches": {batch["id"]: "completed"}}
    with pytest.raises(TaskDeferred) as again:
        create(input_file).execute_complete(task_context(operator), event)
    assert again.value.trigger.batch_ids == deferral.value.trigger.batch_ids


def test_retrieve_returns_the_batch_as_plain_json(server: DevServer, input_file: str) -> None:
    """Everything the service knows, and nothing that XCom could not hold."""
    batch = create(input_file, wait_for_completion=False).execute(task_context(create(input_file)))
    result = OpenAIRetrieveBatchOperator(task_id="r", batch_id=batch["id"]).execute({})
    assert result["id"] == batch["id"]
    assert json.loads(json.dumps(result)) == result


def test_list_returns_a_page(server: DevServer) -> None:
    """Newest first, with the cursor of the next page."""
    server.seed(30)
    first = OpenAIListBatchesOperator(task_id="l", limit=20).execute({})
    second = OpenAIListBatchesOperator(task_id="l", after=first["last_id"], limit=20).execute({})
    assert (len(first["data"]), first["has_more"]) == (20, True)
    assert (len(second["data"]), second["has_more"]) == (10, False)


@pytest.mark.parametrize("batch_id", ["", "None", "a/b", ".."])
def test_a_bad_batch_id_is_refused_by_every_operator(server: DevServer, batch_id: str) -> None:
    """Before anything is sent."""
    operators = [
        OpenAIRetrieveBatchOperator(task_id="a", batch_id=batch_id),
        OpenAICancelBatchOperator(task_id="b", batch_id=batch_id),
        OpenAIDownloadBatchResultsOperator(task_id="c", batch_id=batch_id, output_uri="/x"),
    ]
    for operator in operators:
        with pytest.raises(InvalidInputError, match="batch_id is"):
            operator.execute(task_context(operator))
    assert server.stats()["requests"] == {}


def test_cancel_waits_out_cancelling(server: DevServer, input_file: str) -> None:
    """With wait_for_completion the task ends when nothing runs any more."""
    server.settings(batch_seconds=2)
    batch = create(input_file, wait_for_completion=False).execute(task_context(create(input_file)))
    operator = OpenAICancelBatchOperator(
        task_id="c", batch_id=batch["id"], wait_for_completion=True, poll_interval=0.1
    )
    assert run_task(operator)["status"] == "cancelled"


def test_cancel_of_what_is_over_is_no_error(server: DevServer, input_file: str) -> None:
    """Nothing is left to cancel, so the task succeeds."""
    batch = run_task(create(input_file))
    assert run_task(OpenAICancelBatchOperator(task_id="c", batch_id=batch["id"]))["status"] == "completed"


def test_cancel_of_what_is_not_there_is_an_error(server: DevServer) -> None:
    """With the service's words."""
    with pytest.raises(APIError, match="404"):
        run_task(OpenAICancelBatchOperator(task_id="c", batch_id="batch_none"))


def test_download_lands_both_files(server: DevServer, tmp_path: Path) -> None:
    """Output and errors, whole, under names that cannot clash."""
    path = tmp_path / "in.jsonl"
    path.write_bytes(
        request_lines(2) + lines_with("fail:400").replace(b'"0"', b'"bad"', 1).splitlines()[0] + b"\n"
    )
    batch = run_task(create(str(path)))
    operator = OpenAIDownloadBatchResultsOperator(
        task_id="d", batch_id=batch["id"], output_uri=f"file://{tmp_path}/out"
    )
    result = operator.execute(task_context(operator))
    output, errors = (
        tmp_path / "out" / f"{batch['id']}-output.jsonl",
        tmp_path / "out" / f"{batch['id']}-errors.jsonl",
    )
    assert (len(output.read_bytes().splitlines()), len(errors.read_bytes().splitlines())) == (2, 1)
    assert result["output"]["bytes"] == output.stat().st_size
    assert result["request_counts"] == {"total": 3, "completed": 2, "failed": 1}


def test_download_of_what_still_runs_is_refused(server: DevServer, input_file: str, tmp_path: Path) -> None:
    """With what to do about it."""
    server.settings(freeze=True)
    batch = create(input_file, wait_for_completion=False).execute(task_context(create(input_file)))
    operator = OpenAIDownloadBatchResultsOperator(task_id="d", batch_id=batch["id"], output_uri=str(tmp_path))
    with pytest.raises(InvalidInputError, match=r"has no results yet. Put an OpenAIBatchSensor"):
        operator.execute(task_context(operator))


@pytest.mark.parametrize("wish", [True, False])
def test_a_kill_before_the_cancel_is_sent(server: DevServer, input_file: str, *, wish: bool) -> None:
    """With cancel_on_kill the batch is cancelled all the same, and not without."""
    server.settings(batch_seconds=60)
    batch_id = run_task(create(input_file, wait_for_completion=False))["id"]
    operator = OpenAICancelBatchOperator(task_id="c", batch_id=batch_id, cancel_on_kill=wish)

    def killed(_: str) -> None:
        operator.on_kill()
        raise TaskKilled("killed")

    operator.hook.cancel_batch = killed  # type: ignore[assignment, method-assign]
    with pytest.raises(TaskKilled):
        operator.execute(task_context(operator))
    assert (server.batches()[0]["status"] in {"cancelling", "cancelled"}) is wish
