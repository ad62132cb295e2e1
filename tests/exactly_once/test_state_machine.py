"""A task's life at random: faults, kills, crashes, retries, clears and changed inputs, in any order."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import TaskDeferred
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from support import ENDPOINT, request_lines, task_context

from airflow_provider_openai_batches.exceptions import OpenAIBatchesError
from airflow_provider_openai_batches.hooks.openai_batches import OpenAIBatchesHook
from airflow_provider_openai_batches.idempotency import submit
from airflow_provider_openai_batches.operators.openai_batches import OpenAICreateBatchOperator

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from airflow_provider_openai_batches.devserver import DevServer

OPERATIONS = ["upload_file", "create_batch", "list_batches", "list_files", "retrieve_batch", "cancel_batch"]
FAULTS = [
    {"action": "drop_before"},
    {"action": "drop_after"},
    {"action": "drop_during"},
    {"action": "half_body"},
    {"action": "status", "status": 429},
    {"action": "status", "status": 500, "after": True},
    {"action": "status", "status": 503},
    {"action": "status", "status": 504, "after": True},
]
MOMENTS = st.tuples(st.sampled_from(["POST /files", "POST /batches", "GET /batches"]), st.booleans())
RUNNING = {"validating", "in_progress", "finalizing"}


class ProcessGoneError(BaseException):
    """The worker dies in the middle of a call: nothing is cleaned up."""


class TaskLife(RuleBasedStateMachine):
    """
    The only task of a run, and the batches that the service should have after each step.

    ``waits_for`` is the batch for which the task is deferred, ``over`` whether the task has ended.
    """

    def __init__(self, server: DevServer, folder: Path) -> None:
        super().__init__()
        server.reset()
        # No batch moves on by itself.
        server.settings(batch_seconds=36_000)
        self.server = server
        self.folder = folder
        self.try_number = 0
        self.version = 0
        self.waits_for: str | None = None
        self.goes_on_in = ""
        self.over = False

    # -- what the task does ----------------------------------------------------------------------------

    def operator(self) -> OpenAICreateBatchOperator:
        path = self.folder / f"{self.version}.jsonl"
        path.write_bytes(request_lines(2, prefix=f"{self.version}-"))
        return OpenAICreateBatchOperator(task_id="t", endpoint=ENDPOINT, input_file=str(path))

    def try_it(self, operator: OpenAICreateBatchOperator) -> None:
        """Run one try until it waits, is done or fails; then count the batches."""
        self.try_number += 1
        before = self.batches()
        usable = {id_ for id_, (version, status) in before.items() if version == self.version} & {
            id_ for id_, (_, status) in before.items() if status in RUNNING | {"completed"}
        }
        cancelling = {id_ for id_, entry in before.items() if entry == (self.version, "cancelling")}
        taken = None
        try:
            taken = operator.execute(self.context(operator))["id"]
            self.over = True
        except TaskDeferred as deferral:
            (taken,) = deferral.trigger.batch_ids
            self.waits_for, self.goes_on_in = taken, deferral.method_name
        except (OpenAIBatchesError, ProcessGoneError):
            pass
        new = self.batches().keys() - before.keys()
        assert len(new) <= (0 if usable or cancelling else 1)
        if taken:
            assert taken in (usable or new or cancelling)

    def context(self, operator: OpenAICreateBatchOperator) -> Any:
        context = task_context(operator, try_number=self.try_number)
        context["dag_run"].run_after -= timedelta(hours=1)
        return context

    def at(self, moment: tuple[str, bool], act: Callable[[], None]) -> OpenAICreateBatchOperator:
        """A task with which something happens just before or just after it sends one of its requests."""
        operator = self.operator()
        call, afterwards = moment
        session = operator.hook.get_conn()
        send = session.request
        pending = [act]

        def request(method: str, url: str, **kwargs: Any) -> Any:
            struck = pending and f"{method} {url.removeprefix(self.server.base_url)}" == call
            if struck and not afterwards:
                pending.pop()()
            answer = send(method, url, **kwargs)
            if struck and afterwards:
                try:
                    pending.pop()()
                except ProcessGoneError:
                    answer.close()  # as the system does with what a dead process had open
                    raise
            return answer

        session.request = request  # type: ignore[assignment, method-assign]
        return operator

    def batches(self) -> dict[str, tuple[int, str]]:
        """Input version and status of each batch at the service, by id."""
        files = {file.wire.id: file.path for file in self.server.service.files.ledger}
        return {
            batch["id"]: (
                int(json.loads(files[batch["input_file_id"]].read_text().split("\n")[0])["custom_id"][0]),
                batch["status"],
            )
            for batch in self.server.batches()
        }

    def running(self) -> set[str]:
        return {id_ for id_, (_, status) in self.batches().items() if status in RUNNING}

    # -- what happens to it ----------------------------------------------------------------------------

    @rule(
        operation=st.sampled_from(OPERATIONS),
        fault=st.sampled_from(FAULTS),
        times=st.integers(1, 2),
        skip=st.integers(0, 1),
    )
    def answers_are_spoilt(self, operation: str, fault: dict[str, Any], times: int, skip: int) -> None:
        self.server.faults([{"operation": operation, "times": times, "skip": skip, **fault}])

    @rule(seconds=st.sampled_from([0.0, 0.02]))
    def the_list_lags(self, seconds: float) -> None:
        self.server.settings(list_lag_seconds=seconds)

    @precondition(lambda self: not self.over and not self.waits_for)
    @rule()
    def it_is_tried(self) -> None:
        self.try_it(self.operator())

    @precondition(lambda self: not self.over and not self.waits_for)
    @rule(moment=MOMENTS)
    def its_worker_crashes(self, moment: tuple[str, bool]) -> None:
        def crash() -> None:
            raise ProcessGoneError

        self.try_it(self.at(moment, crash))

    @precondition(lambda self: not self.over and not self.waits_for)
    @rule(moment=MOMENTS)
    def it_is_killed(self, moment: tuple[str, bool]) -> None:
        """Marked as failed while it runs; if the moment never comes, it goes on."""
        killed: list[bool] = []

        def kill() -> None:
            killed.append(True)
            operator.on_kill()

        operator = self.at(moment, kill)
        self.try_it(operator)
        if killed:
            self.waits_for, self.over = None, True
            assert not self.running()

    @precondition(lambda self: self.waits_for)
    @rule(status=st.sampled_from(["completed", "completed", "failed", "expired", "cancelled"]))
    def its_batch_ends(self, status: str) -> None:
        assert self.waits_for
        ended = self.batches()[self.waits_for][1]
        if ended == "cancelling":
            status = "cancelled"
        if ended in RUNNING | {"cancelling"}:
            self.server.force(self.waits_for, status=status, after=1.0 if status == "completed" else 0.0)
        else:  # it did before, and the task waits again because the batch could not be retrieved
            status = ended
        event = {"status": "finished", "message": "", "batches": {self.waits_for: status}}
        operator = self.operator()
        try:
            result = getattr(operator, self.goes_on_in)(self.context(operator), event)
        except TaskDeferred as deferral:
            (self.waits_for,) = deferral.trigger.batch_ids
            self.goes_on_in = deferral.method_name
        except OpenAIBatchesError:
            self.waits_for = None
            assert status != "completed"
        else:
            assert (result["id"], result["request_counts"]["completed"]) == (self.waits_for, 2)
            self.waits_for, self.over = None, True

    @precondition(lambda self: self.waits_for)
    @rule(clear=st.booleans())
    def it_is_killed_while_it_waits(self, clear: bool) -> None:
        """Cleared, or marked as failed: the triggerer cancels."""
        self.server.clear_faults()
        trigger = self.operator()._trigger([str(self.waits_for)], None)
        asyncio.run(trigger.on_kill())
        self.waits_for, self.over = None, not clear
        assert not self.running()

    @precondition(lambda self: self.over)
    @rule()
    def it_is_cleared(self) -> None:
        self.over = False

    @precondition(lambda self: not self.waits_for and self.version < 9)
    @rule()
    def its_input_changes(self) -> None:
        self.version += 1

    @invariant()
    def nothing_is_paid_twice(self) -> None:
        assert self.server.stats()["paid_more_than_once"] == 0

    @invariant()
    def only_what_is_waited_for_runs(self) -> None:
        if self.over:
            assert not self.running()
        elif self.waits_for:
            assert self.running() <= {self.waits_for}
        else:
            assert len(self.running()) <= 1


def test_no_life_pays_twice_or_leaves_a_batch_running(
    server: DevServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever happens in whatever order; the counts are the server's own."""
    kwargs = {"recovery_seconds": 1.0, "sleep": lambda seconds: time.sleep(seconds / 10)}
    monkeypatch.setattr(OpenAIBatchesHook.__init__, "__kwdefaults__", kwargs)
    monkeypatch.setattr(submit, "SEARCH_SECONDS", 0.3)
    with tempfile.TemporaryDirectory() as folder:

        class Life(TaskLife):
            def __init__(self) -> None:
                super().__init__(server, Path(folder))

        run_state_machine_as_test(
            Life,
            settings=settings(
                max_examples=20,
                stateful_step_count=20,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
