"""What a task does in its last seconds: cancel its batches, those too whose creation is under way."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from airflow_provider_openai_batches.api.retry import may_repeat
from airflow_provider_openai_batches.compat import task_state
from airflow_provider_openai_batches.exceptions import OpenAIBatchesError
from airflow_provider_openai_batches.idempotency import keys

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from airflow_provider_openai_batches.api.models import Batch
    from airflow_provider_openai_batches.api.retry import Log
    from airflow_provider_openai_batches.hooks.openai_batches import OpenAIBatchesHook

# After a kill Airflow gives a running task five seconds before it ends it the hard way, and an answer that is
# still to come needs some of them.
KILL_SECONDS = 4.0
# Where nothing more is to come, cancelling goes on for as long as the process is left alone.
CANCEL_SECONDS = 30.0
CANCELS_AT_A_TIME = 8
# For the question whether the task goes on; it leaves time to cancel.
ASK_SECONDS = 2.0
# Among the keys that are looked for: whichever batch of the task runs.
ANY = "any"


def goes_on(ti: Any) -> bool:
    """
    Whether a next try of a task that is being stopped takes up what this one leaves.

    Airflow stops a task not only when somebody marks it or deletes its run: also when it is cleared, when the
    API server is away for long, or when a scheduler has given it to another process. Then somebody waits for
    its batches again, or does so already.

    :param ti: the task instance, of which this process runs one try.
    """
    answers: list[str | None] = []

    def ask() -> None:
        try:
            states = task_state.ask(ti.dag_id, ti.run_id, ti.task_id)
        except Exception:  # noqa: BLE001 - Airflow's releases differ in what they raise; none of it is an answer
            return
        answers.append(states.get(task_state.name_among(ti), "removed"))

    # In a thread, because the call that the kill has interrupted may hold the lock that asking needs.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(ASK_SECONDS)
    if answers and answers[0] != "running":
        return answers[0] not in task_state.OVER
    return bool(ti.try_number <= getattr(ti, "max_tries", 0))


class Killer:
    """
    Cancels within the seconds that Airflow leaves to a task that is being killed.

    :param hook: one of its own (:meth:`OpenAIBatchesHook.sibling`): it interrupts another one's calls.
    """

    def __init__(self, hook: OpenAIBatchesHook, log: Log, seconds: float = CANCEL_SECONDS) -> None:
        self._hook = hook
        self._log = log
        self._deadline = time.monotonic() + seconds

    @property
    def _is_late(self) -> bool:
        return time.monotonic() > self._deadline

    def cancel(self, batch_ids: Iterable[str]) -> None:
        """Cancel batches, several at a time; what fails is tried again until the time is over."""
        left = list(batch_ids)
        while left:
            failed = []
            for batch_id, answer in zip(left, self._cancel_each(left), strict=True):
                if not isinstance(answer, OpenAIBatchesError):
                    self._log.info("The task is stopped: batch %s is %s", batch_id, answer.status)
                elif may_repeat("cancel_batch", answer) and not self._is_late:
                    failed.append(batch_id)
                else:
                    self._log.error("Batch %s could not be cancelled and may run on: %s", batch_id, answer)
            left = failed
            if left:
                self._hook.sleep(0.5)

    def _cancel_each(self, batch_ids: list[str]) -> list[Batch | OpenAIBatchesError]:
        if len(batch_ids) == 1:
            return [self._cancel_one(batch_ids[0])]
        with ThreadPoolExecutor(CANCELS_AT_A_TIME) as pool:
            return list(pool.map(self._cancel_one, batch_ids))

    def _cancel_one(self, batch_id: str) -> Batch | OpenAIBatchesError:
        try:
            return self._hook.cancel_batch(batch_id)
        except OpenAIBatchesError as error:
            return error

    def find_and_cancel(
        self,
        task_key: str,
        pending: set[str],
        since: float,
        *,
        older: Collection[str] = (),
        unseen: bool = False,
    ) -> None:
        """
        Cancel the task's batches that the list shows.

        :param pending: keys of creates whose answer has not come: looked for until found or out of time.
        :param since: Unix seconds before which none was created.
        :param older: ids of batches that were there before those creates, and may have the same keys.
        :param unseen: look as long for one that runs, because an earlier try may have left one that is not
            listed yet.
        """
        missing = pending | ({ANY} if unseen else set())
        while not self._look(task_key, missing, since, older) or missing:
            if self._is_late:
                break
            self._hook.sleep(0.5)
        missing.discard(ANY)
        if missing:
            self._log.error(
                "The task is stopped while a batch is being created, and the list does not show it yet. It is"
                " cancelled if its answer still comes; if not, look for a batch with metadata %s=%s",
                keys.KEY,
                ", ".join(missing),
            )

    def _look(self, task_key: str, missing: set[str], since: float, older: Collection[str]) -> bool:
        """Read the list once, cancel what is met, and take it off ``missing``; False if that broke off."""
        try:
            for batch in self._hook.iter_batches_since(since):
                if keys.outdated([batch], task_key, keys=()):
                    self.cancel([batch.id])
                    missing.discard(ANY)
                if batch.id not in older:
                    missing.discard(keys.key_of(batch) or "")
                if self._is_late:
                    break
        except OpenAIBatchesError as error:
            self._log.warning("The batches cannot be listed: %s", error)
            return False
        return True
