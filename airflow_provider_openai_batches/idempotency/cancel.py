"""
What happens to a task's batches when the task is stopped: one table, and the code that carries it out.

Airflow stops a task, or the trigger of a deferred task, not only when somebody marks it failed or deletes its
run. It also does so when the task is cleared, when the API server cannot be reached for a long time, when a
scheduler has given the task to another process, or when a triggerer ends. In these cases the task continues
and needs its batches. So the state of the task decides or, if that is unknown, the kind of stop.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from enum import Enum, auto
from typing import TYPE_CHECKING

from airflow_provider_openai_batches.api.retry import may_repeat
from airflow_provider_openai_batches.exceptions import OpenAIBatchesError
from airflow_provider_openai_batches.idempotency.keys import KEY, key_of, names_of, signed

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from airflow_provider_openai_batches.api.models import Batch
    from airflow_provider_openai_batches.api.retry import Log
    from airflow_provider_openai_batches.idempotency.keys import TaskIdentity
    from airflow_provider_openai_batches.idempotency.service import Service

# -- the decision --------------------------------------------------------------------------------------------


class Stop(Enum):
    """How a task was stopped, as far as its code can tell."""

    WITH_TRIES_LEFT = auto()
    """Its process is told to end, and another try is left."""
    ON_LAST_TRY = auto()
    """Its process is told to end, and no other try is left."""
    TRIGGER_KILLED = auto()
    """Airflow 3.3 or later called ``on_kill()`` of its trigger."""
    TRIGGER_CANCELLED = auto()
    """Before Airflow 3.3, its trigger was cancelled: by a kill, a restart or a move to another triggerer."""


class Standing(Enum):
    """What Airflow's state of the task means for its batches."""

    OVER = auto()
    """No try follows, or the task was deleted: nobody waits for its batches."""
    RUNNING = auto()
    """Still the state from before the stop, so it does not tell whether the task continues."""
    WAITED_FOR = auto()
    """Cleared, queued, deferred or up for retry: the next try or another trigger uses its batches."""
    UNKNOWN = auto()
    """Airflow did not answer in time."""


# The states after which no try follows; "removed" also stands for a task that was deleted with its run.
OVER = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})

CANCEL, LEAVE = True, False
# A certain kill counts more than an unknown state. A cancelled trigger does not prove a kill, and it costs
# less to let a batch run than to cancel one that somebody still waits for.
_DECISIONS: dict[Stop, dict[Standing, bool]] = {
    Stop.WITH_TRIES_LEFT: {
        Standing.OVER: CANCEL,
        Standing.RUNNING: LEAVE,
        Standing.WAITED_FOR: LEAVE,
        Standing.UNKNOWN: LEAVE,
    },
    Stop.ON_LAST_TRY: {
        Standing.OVER: CANCEL,
        Standing.RUNNING: CANCEL,
        Standing.WAITED_FOR: LEAVE,
        Standing.UNKNOWN: CANCEL,
    },
    Stop.TRIGGER_KILLED: {
        Standing.OVER: CANCEL,
        Standing.RUNNING: LEAVE,
        Standing.WAITED_FOR: LEAVE,
        Standing.UNKNOWN: CANCEL,
    },
    Stop.TRIGGER_CANCELLED: {
        Standing.OVER: CANCEL,
        Standing.RUNNING: LEAVE,
        Standing.WAITED_FOR: LEAVE,
        Standing.UNKNOWN: LEAVE,
    },
}


def standing_of(state: str | None) -> Standing:
    """
    Say what a task's state means for its batches.

    :param state: Airflow's name for it, or None if Airflow did not answer.
    """
    if state is None:
        return Standing.UNKNOWN
    if state in OVER:
        return Standing.OVER
    return Standing.RUNNING if state == "running" else Standing.WAITED_FOR


def is_to_be_cancelled(stop: Stop, state: str | None) -> bool:
    """
    Decide whether the batches of a stopped task are cancelled, or left to those who wait for them.

    :param state: as for :func:`standing_of`.
    """
    return _DECISIONS[stop][standing_of(state)]


# -- the time limits -----------------------------------------------------------------------------------------

# A running task has five seconds between SIGTERM and SIGKILL. Asking Airflow takes up to two of them.
ASK_SECONDS = 2.0
# The time-out of one request during a kill: there must be time for another one.
REQUEST_SECONDS = 2.0
# While there may be batches whose ids are not known yet, the search for them ends before SIGKILL.
SEARCH_SECONDS = 4.0
# If all batches are known, failed cancels are repeated for this long, unless SIGKILL comes first.
CANCEL_SECONDS = 30.0
CANCELS_AT_A_TIME = 8
PAUSE = 0.5

# A trigger's on_kill() has 30 seconds on Airflow 3.3: the last cancel begins after 20, and takes up to 8.
TRIGGER_ASK_SECONDS = 20.0
TRIGGER_CANCEL_SECONDS = 20.0
TRIGGER_REQUEST_SECONDS = 8.0
TRIGGER_SECONDS = 50.0


# -- carrying it out in a task's process ---------------------------------------------------------------------

_ANY = "any"  # among the keys that are looked for, it stands for any running batch of the task


class Canceller:
    """
    Cancels batches within the seconds that Airflow leaves to a task that is being stopped.

    :param service: a sibling of the task's own service (:meth:`.Service.sibling`), because the stop may have
        interrupted a call of that one.
    :param seconds: how long failed cancels are repeated.
    """

    def __init__(self, service: Service, log: Log, seconds: float = CANCEL_SECONDS) -> None:
        self._service = service
        self._log = log
        self._deadline = time.monotonic() + seconds
        self._names: dict[str, str] = {}

    @property
    def _is_late(self) -> bool:
        return time.monotonic() > self._deadline

    def cancel(self, batch_ids: Iterable[str]) -> None:
        """Cancel batches, several at a time; failed cancels are repeated until the time is up."""
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
                self._service.sleep(PAUSE)

    def _cancel_each(self, batch_ids: list[str]) -> list[Batch | OpenAIBatchesError]:
        if len(batch_ids) == 1:
            return [self._cancel_one(batch_ids[0])]
        with ThreadPoolExecutor(CANCELS_AT_A_TIME) as pool:
            return list(pool.map(self._cancel_one, batch_ids))

    def _cancel_one(self, batch_id: str) -> Batch | OpenAIBatchesError:
        try:
            return self._service.cancel_batch(batch_id)
        except OpenAIBatchesError as error:
            return error

    def find_and_cancel(
        self,
        task: TaskIdentity,
        pending: set[str],
        since: float,
        *,
        files: Mapping[str, str] | None = None,
        older: Collection[str] = (),
        unseen: bool = False,
    ) -> None:
        """
        Cancel the task's batches that the list shows.

        :param pending: keys of unanswered creates; their batches are looked for until found or time is up.
        :param since: Unix seconds before which none of the batches was created.
        :param files: names of the input files of those creates, by id; empty for one that others may use too.
            They tell the batches apart where the service gives no metadata back.
        :param older: ids of batches that existed before those creates, and may have the same keys.
        :param unseen: also look that long for any running batch, because an earlier try may have left one
            that is not listed yet.
        """
        self._names = dict(files or {})
        missing = pending | ({_ANY} if unseen else set())
        while not self._look(task, missing, since, older) or missing:
            if self._is_late:
                break
            self._service.sleep(PAUSE)
        missing.discard(_ANY)
        if missing:
            self._log.error(
                "The task is stopped while a batch is being created, and the list does not show it yet. It is"
                " cancelled if its create is still answered; if not, look for a batch with metadata %s=%s%s",
                KEY,
                ", ".join(missing),
                f", or of input file {', '.join(files)}" if files else "",
            )

    def _look(self, task: TaskIdentity, missing: set[str], since: float, older: Collection[str]) -> bool:
        """Read the list once, cancel the task's batches, and update ``missing``; False if the list failed."""
        try:
            for batch in self._listed(since, all_files=_ANY in missing):
                if task.made(batch) and batch.can_be_cancelled:
                    self.cancel([batch.id])
                    missing.discard(_ANY)
                if batch.id not in older:
                    missing.discard(key_of(batch) or "")
                if self._is_late:
                    break
        except OpenAIBatchesError as error:
            self._log.warning("The batches cannot be listed: %s", error)
            return False
        return True

    def _listed(self, since: float, *, all_files: bool) -> Iterator[Batch]:
        """
        Yield the batches of the list, with the keys that are in the names of their input files.

        :param all_files: where the service gives no metadata back, yield again those whose files were
            uploaded by earlier tries.
        """
        keyless: list[Batch] = []
        gives_metadata = False
        for listed in self._service.iter_batches_since(since):
            gives_metadata = gives_metadata or bool(listed.metadata)
            batch = signed(listed, self._names)
            if key_of(batch) is None:
                keyless.append(batch)
            yield batch
        if all_files and keyless and not gives_metadata:
            names = names_of(self._service.iter_files_since(since))
            yield from (signed(batch, names) for batch in keyless)
