"""A later try of a task goes on where the earlier one was, and pays nothing again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred
from msgspec.structs import replace
from support import request_lines, run_task, task_context

from airflow_provider_openai_batches.exceptions import BatchFailed, InvalidInputError, OpenAIBatchesError
from airflow_provider_openai_batches.hooks.openai_batches import CLOCK_SKEW, OpenAIBatchesHook
from airflow_provider_openai_batches.idempotency.ledger import MAX_AGE
from airflow_provider_openai_batches.operators.base import deployment_id

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airflow_provider_openai_batches.devserver import DevServer
    from airflow_provider_openai_batches.operators.openai_batches import OpenAICreateBatchOperator

    Make = Callable[..., OpenAICreateBatchOperator]

pytestmark = pytest.mark.usefixtures("patience")


def submit(operator: OpenAICreateBatchOperator, **context: Any) -> str:
    """Run a try until it waits, and return the id of its batch."""
    with pytest.raises(TaskDeferred) as deferral:
        operator.execute(task_context(operator, **context))
    (batch_id,) = deferral.value.trigger.batch_ids
    return str(batch_id)


def logged(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> str:
    """Return what a task logged. Where that goes depends on how Airflow has set up logging."""
    return capsys.readouterr().out + caplog.text


def requests(server: DevServer, *operations: str) -> list[int]:
    made = server.stats()["requests"]
    return [made.get(operation, 0) for operation in operations]


def test_a_first_try_costs_an_upload_a_create_and_the_polls(server: DevServer, task: Make) -> None:
    """Exactly once costs no request when nothing goes wrong."""
    run_task(task())
    made = server.stats()["requests"]
    polls = made.pop("retrieve_batch")
    assert made == {"upload_file": 1, "create_batch": 1}
    assert 2 <= polls <= 5


def test_a_running_batch_is_waited_for(server: DevServer, task: Make) -> None:
    """The second try sends one list request, and goes on waiting."""
    server.settings(freeze=True)
    assert submit(task()) == submit(task(), try_number=2)
    assert requests(server, "upload_file", "create_batch", "list_batches", "list_files") == [1, 1, 1, 0]
    assert server.stats()["batches"]["stored"] == 1


def test_a_completed_batch_is_used(server: DevServer, task: Make) -> None:
    """Nothing is uploaded, created or paid; the result is there at once."""
    first = run_task(task())
    again = run_task(task(), task_context(task(), try_number=5))
    assert again["id"] == first["id"]
    assert requests(server, "upload_file", "create_batch") == [1, 1]
    assert server.stats()["paid_more_than_once"] == 0


@pytest.mark.parametrize("status", ["cancelled", "failed", "expired"])
def test_a_batch_that_ended_without_answers_is_replaced(server: DevServer, task: Make, status: str) -> None:
    """The same file, a new batch."""
    server.settings(freeze=True)
    first = submit(task())
    server.force(first, status=status, after=0.0)
    assert submit(task(), try_number=2) != first
    assert requests(server, "upload_file", "create_batch") == [1, 2]


@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize("status", ["cancelled", "expired"])
def test_what_a_batch_answered_before_it_ended_is_never_sent_again(
    server: DevServer, task: Make, status: str, *, wait: bool
) -> None:
    """The first try fails for good, each later one too, and both say what to do."""
    server.settings(freeze=True)
    first = submit(task())
    server.force(first, status=status, after=0.5)
    event = {"status": "finished", "message": "", "batches": {first: status}}
    with pytest.raises(AirflowFailException, match="reuse=False to send all of it again"):
        task().execute_complete(task_context(task()), event)
    again = task(wait_for_completion=wait)
    with pytest.raises(AirflowFailException, match=f"{first}.*\n.*OpenAIDownloadBatchResultsOperator"):
        again.execute(task_context(again, try_number=2))
    assert requests(server, "upload_file", "create_batch") == [1, 1]


def test_an_expired_batch_is_sent_again_by_a_task_that_wants_that(server: DevServer, task: Make) -> None:
    """reuse=False, as the message says."""
    server.settings(freeze=True)
    first = submit(task())
    server.force(first, status="expired", after=0.5)
    assert submit(task(reuse=False), try_number=2) != first


def test_an_empty_output_file_holds_no_answer(
    server: DevServer, task: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As some services name one for a batch that has none."""
    server.settings(freeze=True)
    first = submit(task())
    server.force(first, status="expired", after=0.0)
    server.force(first, output_file_id="file-empty")
    monkeypatch.setattr(OpenAIBatchesHook, "first_lines", lambda *_: [])
    assert submit(task(), try_number=2) != first


@pytest.mark.parametrize("wait", [True, False])
def test_a_batch_that_is_being_cancelled_is_waited_for(server: DevServer, task: Make, *, wait: bool) -> None:
    """Until it is over nobody knows what it answers; without answers it is replaced in the same try."""
    server.settings(freeze=True)
    first = submit(task())
    OpenAIBatchesHook().cancel_batch(first)
    operator, context = task(wait_for_completion=wait), task_context(task(), try_number=2)
    with pytest.raises(TaskDeferred) as deferral:
        operator.execute(context)
    assert deferral.value.trigger.batch_ids == [first]
    server.force(first, status="cancelled", after=0.0)
    event = {"status": "finished", "message": "", "batches": {first: "cancelled"}}
    resumed = getattr(task(wait_for_completion=False), deferral.value.method_name)
    assert resumed(context, event)["id"] != first
    assert requests(server, "upload_file", "create_batch") == [1, 2]


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_list_that_lags_behind_a_cancelled_batch_does_not_repeat_the_wait(
    server: DevServer, task: Make, monkeypatch: pytest.MonkeyPatch, *, deferrable: bool
) -> None:
    """The wait is over at once each time, so a task would go round for as long as the list lags."""
    server.settings(freeze=True)
    old = submit(task())
    OpenAIBatchesHook().cancel_batch(old)
    server.settings(freeze=False)
    lists, read = [], OpenAIBatchesHook.list_batches

    def lagging(hook: OpenAIBatchesHook, *args: Any, **kwargs: Any) -> Any:
        page = read(hook, *args, **kwargs)
        lists.append(page)
        assert len(lists) < 15, "it goes round"
        data = [replace(batch, status="cancelling") if batch.id == old else batch for batch in page.data]
        return replace(page, data=data)

    monkeypatch.setattr(OpenAIBatchesHook, "list_batches", lagging)
    done = run_task(task(deferrable=deferrable), task_context(task(), try_number=2))
    assert (done["status"], done["id"] != old) == ("completed", True)
    assert requests(server, "create_batch") == [2]


def test_a_batch_whose_requests_all_failed_is_replaced(server: DevServer, task: Make, tmp_path: Path) -> None:
    """Otherwise every retry would fail on it."""
    lines = request_lines().replace(b'"model"', b'"metadata": {"devserver": "fail:500*1"}, "model"')
    (tmp_path / "in.jsonl").write_bytes(lines)
    with pytest.raises(BatchFailed, match="all 3 requests failed"):
        run_task(task())
    result = run_task(task(), task_context(task(), try_number=2))
    assert result["request_counts"]["completed"] == 3


def test_a_lost_answer_on_a_later_try_does_not_bring_back_the_old_batch(
    server: DevServer, task: Make
) -> None:
    """Both carry the same key; the one that failed before is not taken for the one just created."""
    server.settings(freeze=True)
    first = submit(task())
    server.force(first, status="failed")
    server.settings(list_lag_seconds=0.2, freeze=False, batch_seconds=30)
    server.faults([{"operation": "create_batch", "action": "drop_after"}])
    second = submit(task(), try_number=2)
    assert second != first
    assert server.stats()["batches"] == {
        "stored": 2,
        "running": 1,
        "by_status": {"failed": 1, "validating": 1},
        "seeded": 0,
    }


def test_a_file_that_was_uploaded_but_not_submitted_is_used(server: DevServer, task: Make) -> None:
    """The first try died between the two."""
    server.settings(freeze=True)
    server.faults([{"operation": "create_batch", "action": "status", "status": 403}])
    with pytest.raises(OpenAIBatchesError, match="403"):
        task().execute(task_context(task()))
    submit(task(), try_number=2)
    assert requests(server, "upload_file", "create_batch") == [1, 2]
    assert server.stats()["files"] == 1


def test_a_file_that_is_gone_is_uploaded_again(server: DevServer, task: Make) -> None:
    """The service deletes files after some time; a later retry still works."""
    server.settings(freeze=True)
    first = submit(task())
    server.force(first, status="failed")
    OpenAIBatchesHook().delete_file(server.batches()[0]["input_file_id"])
    assert submit(task(), try_number=2) != first
    assert requests(server, "upload_file", "create_batch") == [2, 3]


def test_a_list_that_lags_is_waited_for(server: DevServer, task: Make, patience: float) -> None:
    """The first try died a moment ago, and its batch is not listed yet."""
    server.settings(batch_seconds=30, list_lag_seconds=patience / 2)
    first = submit(task())
    assert submit(task(), try_number=2) == first
    assert server.stats()["batches"]["stored"] == 1


def test_a_try_that_finds_nothing_goes_on_when_the_list_had_its_time(server: DevServer, task: Make) -> None:
    """By then it is certain that no earlier try created a batch."""
    assert run_task(task(), task_context(task(), try_number=2))["status"] == "completed"
    assert requests(server, "upload_file", "create_batch", "list_batches") == [1, 1, 2]


@pytest.mark.parametrize("ended", [True, False])
def test_a_try_that_looks_for_a_batch_says_so(
    server: DevServer,
    task: Make,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    *,
    ended: bool,
) -> None:
    """Half a minute of silence after an expired batch looks like a task that hangs."""
    server.settings(freeze=True)
    if ended:
        server.force(submit(task()), status="expired", after=0.0)
    submit(task(), try_number=2)
    assert "looking for 0 s, because the list may lag" in logged(capsys, caplog)


def test_without_reuse_every_try_submits_anew(
    server: DevServer, task: Make, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The batch that the earlier try left running is cancelled, because nobody waits for it."""
    server.settings(batch_seconds=30)
    first = submit(task(reuse=False))
    second = submit(task(reuse=False), try_number=2)
    assert first != second
    assert f"Batch {first} still runs for an input of an earlier try; cancelling it" in logged(capsys, caplog)
    assert requests(server, "upload_file", "create_batch") == [2, 2]
    assert {batch["id"]: batch["status"] for batch in server.batches()}[first] in {"cancelling", "cancelled"}


def test_without_reuse_a_completed_batch_is_paid_again(server: DevServer, task: Make) -> None:
    """That is what was asked for."""
    first = run_task(task(reuse=False))
    assert run_task(task(reuse=False), task_context(task(), try_number=2))["id"] != first["id"]


def test_a_changed_input_cancels_the_old_batch_first(
    server: DevServer,
    task: Make,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A cleared task asks something else now."""
    server.settings(batch_seconds=30)
    first = submit(task())
    (tmp_path / "in.jsonl").write_bytes(request_lines(4))
    second = submit(task(), try_number=2)
    assert f"Batch {first} still runs for an input of an earlier try; cancelling it" in logged(capsys, caplog)
    assert server.stats()["requests"]["cancel_batch"] == 1
    states = {batch["id"]: batch["status"] for batch in server.batches()}
    assert states[first] in {"cancelling", "cancelled"}
    assert states[second] == "validating"


def test_a_changed_input_whose_old_batch_lags_is_cancelled_too(
    server: DevServer, task: Make, tmp_path: Path, patience: float
) -> None:
    """The list shows it while the new one is looked for."""
    server.settings(batch_seconds=30, list_lag_seconds=patience / 2)
    first = submit(task())
    (tmp_path / "in.jsonl").write_bytes(request_lines(4))
    submit(task(), try_number=2)
    assert {batch["id"]: batch["status"] for batch in server.batches()}[first] in {"cancelling", "cancelled"}


def test_another_endpoint_is_another_input(server: DevServer, task: Make) -> None:
    """The file id alone does not say what was asked."""
    server.settings(freeze=True)
    file = OpenAIBatchesHook().upload_file(task().input_file)
    first = submit(task(input_file_id=file.id))
    assert submit(task(input_file_id=file.id), try_number=2) == first
    assert submit(task(input_file_id=file.id, endpoint="/v1/responses"), try_number=3) != first


def test_two_deployments_leave_each_other_alone(
    server: DevServer, task: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Staging and production on one key run the same DAG: neither takes nor cancels the other's batch."""
    server.settings(freeze=True)
    monkeypatch.setenv("AIRFLOW__OPENAI_BATCHES__DEPLOYMENT_ID", "staging")
    staging = submit(task())
    monkeypatch.setenv("AIRFLOW__OPENAI_BATCHES__DEPLOYMENT_ID", "production")
    production = submit(task(reuse=False), try_number=2)
    assert production != staging
    assert requests(server, "cancel_batch") == [0]
    monkeypatch.setenv("AIRFLOW__OPENAI_BATCHES__DEPLOYMENT_ID", "")
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example")
    assert submit(task(), try_number=2) not in {staging, production}


@pytest.mark.parametrize("second", ["", "https://new.example"])
@pytest.mark.parametrize("first", ["", "https://old.example"])
def test_an_airflow_without_an_id_does_not_lose_its_batch(
    server: DevServer,
    task: Make,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    *,
    first: str,
    second: str,
) -> None:
    """A worker that lacks [api] base_url, or a new address between two tries."""
    server.settings(freeze=True)
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", first)
    batch_id = submit(task())
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", second)
    assert submit(task(), try_number=2) == batch_id
    assert ("Set deployment_id, to the same on all nodes" in logged(capsys, caplog)) is (first != second)
    assert requests(server, "create_batch", "cancel_batch") == [1, 0]
    assert submit(task(task_id="other"), try_number=2) != batch_id
    assert submit(task(), run_id="another", try_number=2) != batch_id
    server.force(batch_id, status="failed")
    replaced = submit(task(), try_number=3)
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", first)
    assert submit(task(), try_number=4) == replaced


def test_a_batch_that_only_has_the_names_is_not_cancelled(
    server: DevServer, task: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With another input it may be another Airflow's."""
    server.settings(freeze=True)
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://old.example")
    submit(task())
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://new.example")
    (tmp_path / "in.jsonl").write_bytes(request_lines(4))
    submit(task(), try_number=2)
    assert requests(server, "create_batch", "cancel_batch") == [2, 0]


def test_two_airflows_with_neither_option_have_keys_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The nodes of one reach its API server at one address; failing that, it is one machine."""
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "")
    ids = {deployment_id()}
    monkeypatch.setattr("socket.gethostname", lambda: "another")
    ids.add(deployment_id())
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTION_API_SERVER_URL", "https://api.example/execution/")
    ids.add(deployment_id())
    monkeypatch.setenv("AIRFLOW__OPENAI_BATCHES__DEPLOYMENT_ID", "production")
    assert deployment_id() == "production"
    assert len(ids) == 3


def test_each_mapped_task_has_its_own_batch(server: DevServer, task: Make) -> None:
    """The same input under two map indices is two batches, and each finds its own again."""
    server.settings(freeze=True)
    ids = [submit(task(), map_index=index) for index in (0, 1)]
    assert ids[0] != ids[1]
    assert [submit(task(), map_index=index, try_number=2) for index in (0, 1)] == ids
    assert [batch["metadata"]["airflow_map_index"] for batch in server.batches()] == ["0", "1"]


@pytest.mark.parametrize(("run", "task_id"), [("another", "t"), ("run", "another")])
def test_another_run_or_task_has_its_own_batch(server: DevServer, task: Make, run: str, task_id: str) -> None:
    """Equal inputs do not make equal tasks."""
    server.settings(freeze=True)
    first = submit(task())
    assert submit(task(task_id=task_id), run_id=run, try_number=2) != first
    assert requests(server, "cancel_batch") == [0]


def long_list(server: DevServer, task: Make, age: float, *, run_age: float) -> int:
    """How many list requests a second try makes when others' 20 pages of batches go back ``age`` seconds."""
    server.seed(2000, spread_seconds=age, metadata={"airflow_key": "others-key"})
    operator = task()
    context = task_context(operator, try_number=2)
    context["dag_run"].run_after = datetime.now(UTC) - timedelta(seconds=run_age)
    with pytest.raises(TaskDeferred):
        operator.execute(context)
    return int(server.stats()["requests"]["list_batches"])


def test_the_search_stops_at_the_beginning_of_the_run(server: DevServer, task: Make) -> None:
    """Of 20 pages that go back a day, it reads the six of the run's six hours, then the newest one again."""
    server.settings(freeze=True)
    assert 6 <= long_list(server, task, 24 * 3600, run_age=6 * 3600 - CLOCK_SKEW) - 1 <= 7


def test_the_search_stops_after_thirty_days(server: DevServer, task: Make) -> None:
    """A run of last year: nothing older than that can still be used."""
    server.settings(freeze=True)
    assert 10 <= long_list(server, task, 2 * MAX_AGE, run_age=365 * 86_400) - 1 <= 11


def test_the_users_metadata_is_kept_and_too_much_is_refused(server: DevServer, task: Make) -> None:
    """Eleven pairs fit beside the provider's five; a twelfth is an error before anything is sent."""
    own = {f"key{number}": "v" * 512 for number in range(11)}
    run_task(task(metadata=own))
    (batch,) = server.batches()
    assert own.items() <= batch["metadata"].items()
    assert len(batch["metadata"]) == 16
    before = server.stats()["requests"]
    with pytest.raises(InvalidInputError, match="17 pairs"):
        run_task(task(metadata={**own, "one": "more"}))
    assert server.stats()["requests"] == before


def test_an_outage_as_the_wait_ends_uses_up_no_try(
    server: DevServer, task: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The resumed task defers again, the trigger waits until the outage ends, and the result arrives."""
    monkeypatch.setenv(
        "AIRFLOW_CONN_OPENAI_BATCHES_DEFAULT",
        server.environment["AIRFLOW_CONN_OPENAI_BATCHES_DEFAULT"].rstrip("}")
        + ', "extra": {"max_attempts": 1}}',
    )
    batch_id = submit(task())
    server.stop()
    event = {"status": "finished", "message": "", "batches": {batch_id: "completed"}}
    with pytest.raises(TaskDeferred) as again:
        task().execute_complete(task_context(task()), event)
    assert again.value.trigger.batch_ids == [batch_id]
    server.start()
    assert task().execute_complete(task_context(task()), event)["id"] == batch_id
