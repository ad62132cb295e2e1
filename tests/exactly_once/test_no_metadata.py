"""A service that gives no metadata back: the uploaded file is the second key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from airflow.providers.common.compat.sdk import TaskDeferred
from hypothesis import given
from hypothesis import strategies as st
from inferencekit import again, job, rows
from msgspec.structs import replace
from support import task_context

from airflow_provider_openai_batches.api import protocol
from airflow_provider_openai_batches.api.models import Batch, read
from airflow_provider_openai_batches.exceptions import OpenAIBatchesError, UnknownBatchError
from airflow_provider_openai_batches.hooks.openai_batches import OpenAIBatchesHook
from airflow_provider_openai_batches.idempotency.keys import KEY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airflow_provider_openai_batches.devserver import DevServer
    from airflow_provider_openai_batches.operators.openai_batches import OpenAICreateBatchOperator

    Make = Callable[..., OpenAICreateBatchOperator]

pytestmark = pytest.mark.usefixtures("patience")
LOST = {"operation": "create_batch", "action": "drop_after"}


@pytest.fixture
def hide(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes the service answer without these fields of a batch."""

    def without(*fields: str) -> None:
        nothing: dict[str, Any] = dict.fromkeys(fields)
        batch, page = protocol.read_batch, protocol.read_page

        def read_page(reply: Any) -> Any:
            answer = page(reply)
            return replace(answer, data=[replace(item, **nothing) for item in answer.data])

        monkeypatch.setattr(protocol, "read_batch", lambda reply: replace(batch(reply), **nothing))
        monkeypatch.setattr(protocol, "read_page", read_page)

    return without


def submit(operator: OpenAICreateBatchOperator, **context: Any) -> str:
    with pytest.raises(TaskDeferred) as deferral:
        operator.execute(task_context(operator, **context))
    return str(deferral.value.trigger.batch_ids[0])


def stored(server: DevServer) -> int:
    return int(server.stats()["batches"]["stored"])


def test_after_a_lost_answer_the_batch_is_found_by_its_file(
    server: DevServer, task: Make, hide: Callable[..., None]
) -> None:
    """The file was uploaded for this one batch."""
    server.settings(freeze=True)
    hide("metadata")
    server.faults([{**LOST, "times": 6}])
    assert submit(task()) == server.batches()[0]["id"]
    assert stored(server) == 1


@pytest.mark.parametrize("end", ["running", "completed", "failed"])
def test_a_later_try_finds_the_batch_by_its_files_name(
    server: DevServer, task: Make, hide: Callable[..., None], end: str
) -> None:
    """As it does by the key; a batch that failed is replaced."""
    server.settings(freeze=True)
    hide("metadata")
    first = submit(task())
    if end == "failed":
        server.force(first, status="failed")
        second = submit(task(), try_number=2)
        assert second != first
        assert submit(task(), try_number=3) == second
    elif end == "completed":
        server.force(first, status="completed")
        assert task().execute(task_context(task(), try_number=2))["id"] == first
    else:
        assert submit(task(), try_number=2) == first
    assert stored(server) == (2 if end == "failed" else 1)


def test_where_neither_comes_back_nothing_is_sent_again(
    server: DevServer, task: Make, hide: Callable[..., None]
) -> None:
    """Not in the same try, and not in a later one."""
    server.settings(freeze=True)
    hide("metadata", "input_file_id")
    server.faults([LOST])
    for number in (1, 2, 3):
        with pytest.raises(UnknownBatchError, match=r"may be any of batch_\w+: .*Nothing was sent again"):
            task().execute(task_context(task(), try_number=number))
    assert stored(server) == 1
    assert submit(task(reuse=False), try_number=4)


def test_a_file_that_others_may_use_is_no_key(
    server: DevServer, task: Make, hide: Callable[..., None]
) -> None:
    """A batch of the same input_file_id may be another task's: it is neither taken nor paid again."""
    server.settings(freeze=True)
    file_id = OpenAIBatchesHook().upload_file(task().input_file).id
    hide("metadata")
    server.faults([LOST])
    for number in (1, 2):
        operator = task(input_file_id=file_id)
        with pytest.raises(UnknownBatchError, match="input_file instead of input_file_id"):
            operator.execute(task_context(operator, try_number=number))
    assert stored(server) == 1


class Overdue(BaseException):
    """Stands in for Airflow's time-out, which is raised wherever the task is, and followed by a kill."""


def killed_in_create(operator: OpenAICreateBatchOperator) -> None:
    """Run a task that is stopped after the service has stored its batch, and before it has the answer."""
    session = operator.hook.get_conn()
    send = session.request

    def request(method: str, url: str, **kwargs: Any) -> Any:
        answer = send(method, url, **kwargs)
        if method == "POST" and url.endswith("/batches"):
            answer.close()
            raise Overdue
        return answer

    session.request = request  # type: ignore[assignment, method-assign]
    with pytest.raises(Overdue):
        operator.execute(task_context(operator))
    operator.on_kill()


def statuses(server: DevServer) -> list[str]:
    return [batch["status"] for batch in server.batches()]


def test_a_kill_during_a_create_finds_the_batch_by_its_file(
    server: DevServer, task: Make, hide: Callable[..., None]
) -> None:
    """Its answer is lost, and its key does not come back."""
    server.settings(freeze=True)
    hide("metadata")
    killed_in_create(task())
    assert statuses(server) == ["cancelling"]


def test_a_kill_of_a_later_try_finds_the_batch_of_the_first_by_its_file(
    server: DevServer, task: Make, hide: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first try died, and this one is killed before it has read the list."""
    server.settings(freeze=True)
    hide("metadata")
    first = submit(task())
    operator, context = task(), task_context(task(), try_number=2)
    monkeypatch.setattr(type(operator), "_check_input", lambda self: self.on_kill())
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever comes of it
        operator.execute(context)
    assert {batch["id"]: batch["status"] for batch in server.batches()} == {first: "cancelling"}


@pytest.mark.parametrize("field", ["input_file_id", "metadata"])
def test_a_kill_cancels_no_batch_that_may_be_anothers(  # noqa: PLR0917 - fixtures
    server: DevServer,
    task: Make,
    hide: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    logged: Callable[[str], int],
    field: str,
) -> None:
    """Of the same input_file_id there are two, or no file comes back: the log says what to look for."""
    monkeypatch.setattr("airflow_provider_openai_batches.idempotency.submit.SEARCH_SECONDS", 0.2)
    server.settings(freeze=True)
    file_id = OpenAIBatchesHook().upload_file(task().input_file).id
    OpenAIBatchesHook().create_batch(file_id, "/v1/chat/completions")
    hide("metadata", field)
    killed_in_create(task(input_file_id=file_id))
    assert statuses(server) == ["validating"] * 2
    assert logged(f"or of input file {file_id}") == 1


@pytest.mark.parametrize("end", ["nothing", "failed"])
def test_the_file_of_an_earlier_try_is_a_key_too(
    server: DevServer, task: Make, hide: Callable[..., None], end: str
) -> None:
    """It was uploaded for the same batch, so after a lost answer the batch is found by it."""
    server.settings(freeze=True)
    hide("metadata")
    if end == "failed":
        server.force(submit(task()), status="failed")
    else:
        server.faults([{"operation": "create_batch", "action": "status", "status": 403}])
        with pytest.raises(OpenAIBatchesError, match="403"):
            task().execute(task_context(task()))
    server.faults([LOST])
    second = submit(task(), try_number=2)
    assert second == server.batches()[-1]["id"]
    assert server.stats()["requests"]["upload_file"] == 1
    assert stored(server) == (2 if end == "failed" else 1)


def test_one_upload_of_the_hook_is_a_key_once(
    server: DevServer, task: Make, hide: Callable[..., None]
) -> None:
    """The second batch of a file is not taken for the first."""
    server.settings(freeze=True)
    hide("metadata")
    hook = OpenAIBatchesHook()
    file_id = hook.upload_file(task().input_file).id
    server.faults([{**LOST, "times": 2}])
    first = hook.create_batch(file_id, "/v1/chat/completions")
    with pytest.raises(UnknownBatchError, match=first.id):
        hook.create_batch(file_id, "/v1/chat/completions")
    assert stored(server) == 2


def test_a_job_uploads_anew_for_a_batch_that_replaces_a_rejected_one(
    server: DevServer, tmp_path: Path, hide: Callable[..., None]
) -> None:
    """The old file belongs to the old batch, so it would not tell the new one apart after a lost answer."""
    server.settings(freeze=True)
    hide("metadata")
    operator = job(tmp_path / "out", requests=rows(3))
    with pytest.raises(TaskDeferred) as deferral:
        operator.execute(task_context(operator))
    (first,) = deferral.value.trigger.batch_ids
    limit = {"object": "list", "data": [{"code": "token_limit_exceeded", "message": "full"}]}
    server.force(first, status="failed", errors=limit)
    server.faults([LOST])
    server.settings(freeze=False)
    assert again(operator)["counts"]["succeeded"] == 3
    assert len({batch["input_file_id"] for batch in server.batches()}) == len(server.batches()) == 2


def test_batches_of_others_without_metadata_stop_nobody(server: DevServer, task: Make) -> None:
    """Where the service gives metadata back, a batch without a key is not this task's."""
    server.settings(freeze=True)
    server.seed(3, metadata={"team": "search"})
    server.seed(3)
    server.faults([{"operation": "create_batch", "action": "drop_before"}])
    submit(task(), try_number=2)
    assert server.stats()["requests"]["create_batch"] == 2


JSON = st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3) | st.lists(st.integers(0, 9))


@given(st.dictionaries(st.text(max_size=3), JSON, max_size=4))
def test_no_value_in_the_metadata_hides_the_key(others: dict[str, Any]) -> None:
    """Some services answer with numbers, lists or null among the texts."""
    document = {"id": "batch_1", "metadata": {**others, KEY: "a-b"}}
    assert (read(msgspec.json.encode(document), Batch).metadata or {})[KEY] == "a-b"
