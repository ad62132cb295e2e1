"""
What is known of a job's batches, in ``batches.json``.

The service is the ledger, and what stands here only saves asking it: without the file the batches are found
again by their keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_openai_batches.api.models import TERMINAL_STATUSES
from airflow_provider_openai_batches.inference.data.outcomes import RowError  # noqa: TC001 - msgspec reads the annotation
from airflow_provider_openai_batches.polling.wait import GRACE, UNKNOWN_WINDOW
from airflow_provider_openai_batches.storage import open_binary, whole

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_openai_batches.api.models import Batch

RECORDS_FILE = "batches.json"


class Record(msgspec.Struct, omit_defaults=True):
    """
    One shard's batch; all times are Unix seconds.

    :param attempt: how often a batch of this shard was rejected before; it is part of the batch's key.
    :param files: the downloaded results; None as long as the batch is not over.
    :param error: why the shard has no batch, and gets none in this try.
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

    @property
    def is_active(self) -> bool:
        return self.batch_id is not None and self.files is None and self.error is None

    @property
    def is_open(self) -> bool:
        """Whether a batch is still to be submitted for it."""
        return self.batch_id is None and self.error is None

    @property
    def is_over(self) -> bool:
        return self.status in TERMINAL_STATUSES

    @property
    def deadline(self) -> float:
        return self.expires_at + GRACE if self.expires_at else self.created_at + UNKNOWN_WINDOW

    def saw(self, batch: Batch) -> None:
        self.batch_id, self.status = batch.id, batch.status
        self.input_file_id = batch.input_file_id or self.input_file_id
        self.created_at = batch.created_at or self.created_at
        self.expires_at = batch.expires_at
        counts = batch.counts
        self.total, self.completed, self.failed = counts.total, counts.completed, counts.failed

    def release(self) -> None:
        """Its batch was rejected: another one may be submitted, under another key."""
        if self.batch_id is not None:
            self.attempt += 1
        self.batch_id, self.error, self.files, self.status = None, None, None, ""


class Records(msgspec.Struct):
    """
    The batches of a job by shard, and how this try goes.

    :param digest: of the results that the job will have, see :func:`.landing.digests`.
    :param started: when this try began; ``first_started`` when the first one did.
    :param since: from which time on the service may have batches that are not in here; None: there are none.
    :param salt: makes the keys of this try its own, where earlier batches are not to be taken up.
    :param cut: the rounds in which an earlier try was stopped; they do not count.
    :param active_limit: so many batches the enqueued-token limit seems to allow.
    :param not_before: no batch is created before this time.
    :param setbacks: pauses in a row.
    :param stuck_since: when the first of them began.
    """

    digest: str
    started: float
    first_started: float = 0
    since: float | None = None
    salt: str = ""
    by_shard: dict[int, Record] = {}
    cut: set[int] = set()
    active_limit: int | None = None
    not_before: float = 0
    setbacks: int = 0
    stuck_since: float | None = None

    def of(self, shard: int) -> Record:
        return self.by_shard.setdefault(shard, Record(shard))

    @property
    def active(self) -> list[Record]:
        return [record for record in self.by_shard.values() if record.is_active]

    @property
    def rejected(self) -> list[Record]:
        return [record for record in self.by_shard.values() if record.error]

    @property
    def has_batches(self) -> bool:
        return any(record.batch_id for record in self.by_shard.values())

    def created_since(self, moment: float) -> list[float]:
        """When the batches were created that are not older, oldest first."""
        return sorted(record.created_at for record in self.by_shard.values() if record.created_at > moment)

    def recover(self) -> None:
        """Something went well: there is no need to hold back."""
        self.setbacks, self.stuck_since, self.not_before = 0, None, 0
        if self.active_limit is not None:
            self.active_limit += 1

    def next_try(self, started: float, since: float | None) -> Records:
        """What an earlier try knew, for a new one: rejected shards may be submitted again."""
        for record in self.rejected:
            record.release()
        return msgspec.structs.replace(
            self,
            started=started,
            first_started=self.first_started or self.started,
            since=since,
            active_limit=None,
            not_before=0.0,
            setbacks=0,
            stuck_since=None,
        )

    def save(self, folder: Path) -> None:
        with whole(folder / RECORDS_FILE) as handle:
            handle.write(msgspec.json.encode(self))

    @classmethod
    def load(cls, path: Any) -> Records | None:
        """None if there are none, or none that can be read: the service knows more."""
        if not path.exists():
            return None
        try:
            with open_binary(path) as handle:
                return msgspec.json.decode(handle.read(), type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
