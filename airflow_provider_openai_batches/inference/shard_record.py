"""What a job knows about the batch of one of its shards."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from airflow_provider_openai_batches.api.models import is_over
from airflow_provider_openai_batches.api.usage import Usage
from airflow_provider_openai_batches.idempotency import keys
from airflow_provider_openai_batches.inference.data.outcomes import RowError  # noqa: TC001 - msgspec reads the annotation
from airflow_provider_openai_batches.polling.wait import GRACE, UNKNOWN_WINDOW

if TYPE_CHECKING:
    from airflow_provider_openai_batches.api.models import Batch

# How many rows a batch left open if only its results, together with those of all others, can tell.
UNKNOWN = -1


class Record(msgspec.Struct, omit_defaults=True):
    """
    One shard's batch; all times are Unix seconds.

    :param attempt: how many batches of this shard were rejected before; it is part of the batch's key.
    :param files: the names of the downloaded result files; None until they are downloaded.
    :param error: why the shard has no batch, and gets none in this try.
    :param is_own: whether the task has certainly made the batch; if not, it does not cancel it.
    :param uploaded: the id of its input file, which no batch has yet.
    :param is_keyless: whether the service gives no metadata back, so its input file must tell.
    :param ended_at: when its batch was over.
    :param is_too_large: whether the service takes no batch of its size.
    :param usage: the tokens of its answers, once the batch is over and where it says them.
    :param model: its model, as far as the batch says it.
    :param estimated_tokens: its input tokens, as its requests' sizes suggest.
    :param rejected_at: when the service rejected its batch.
    :param is_traced: whether its batch has a span in Airflow's traces.
    :param unfinished: how many of its rows may have to be asked again, and are in no other shard yet.
    """

    shard: int
    attempt: int = 0
    batch_id: str | None = None
    status: str = ""
    input_file_id: str | None = None
    created_at: float = 0
    expires_at: float | None = None
    completed: int = 0
    failed: int = 0
    total: int = 0
    files: list[str] | None = None
    error: RowError | None = None
    is_own: bool = True
    uploaded: str | None = None
    is_keyless: bool = False
    ended_at: float = 0
    unfinished: int = UNKNOWN
    usage: Usage | None = None
    model: str | None = None
    estimated_tokens: int = 0
    is_too_large: bool = False
    rejected_at: float = 0
    is_traced: bool = False

    @property
    def is_active(self) -> bool:
        """Whether its batch runs, or has ended and is not downloaded yet."""
        return self.batch_id is not None and self.files is None and self.error is None

    @property
    def has_ended(self) -> bool:
        """Whether its batch is over and downloaded, or was rejected."""
        return self.batch_id is not None and not self.is_active

    @property
    def needs_batch(self) -> bool:
        """Whether a batch is still to be submitted for it."""
        return self.batch_id is None and self.error is None and self.files is None

    @property
    def is_given_up(self) -> bool:
        """Whether it has no batch and gets none: its rows are asked live, or in other shards."""
        return self.batch_id is None and self.files is not None

    @property
    def may_cost(self) -> bool:
        """Whether its batch runs, or has answers, or may have some that the service does not count."""
        has_answers = self.completed or (self.files and not self.total)
        return self.error is None and (self.files is None or bool(has_answers))

    @property
    def is_over(self) -> bool:
        return is_over(self.status)

    @property
    def deadline(self) -> float:
        return self.expires_at + GRACE if self.expires_at else self.created_at + UNKNOWN_WINDOW

    def saw(self, batch: Batch) -> None:
        """Note what the service says about the batch."""
        # Some services do not say it. Without any time the batch would count as overdue, and be cancelled.
        first_seen = self.created_at if batch.id == self.batch_id else 0
        self.created_at = batch.created_at or first_seen or time.time()
        self.batch_id, self.status, self.uploaded = batch.id, batch.status, None
        self.input_file_id = batch.input_file_id or self.input_file_id
        self.expires_at = batch.expires_at
        self.is_keyless = keys.Origin.of(batch).dag_id is None
        counts = batch.counts
        self.total, self.completed, self.failed = counts.total, counts.completed, counts.failed
        estimate, self.model = keys.estimate_of(batch), keys.model_of(batch)
        self.estimated_tokens = estimate[0] if estimate else 0
        usage = Usage.of_batch(batch.usage)
        self.usage = usage if batch.is_over and usage and usage.total_tokens else None

    def release(self) -> None:
        """Forget the batch, which was rejected; another one may be submitted under another key."""
        if self.batch_id is not None:
            self.attempt += 1
        if self.is_keyless:
            self.input_file_id = None
        self.batch_id, self.error, self.files, self.status, self.is_own = None, None, None, "", True
        self.usage, self.rejected_at, self.is_traced = None, 0, False

    def ended(self, batch: Batch, now: float) -> None:
        """Note when the batch was over."""
        self.ended_at = batch.ended_at or now
