"""
What a job knows about its batches, in ``batches.json``, and how many batches it may have now.

The service knows the same and more; the file saves requests. Without the file, the batches are found by the
keys in their metadata.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_openai_batches.exceptions import OpenAIBatchesError
from airflow_provider_openai_batches.inference.data.stored import StoredAnswers  # noqa: TC001 - msgspec reads the annotation
from airflow_provider_openai_batches.inference.shard_record import UNKNOWN, Record
from airflow_provider_openai_batches.storage import is_bare_name, read_bytes, whole

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from airflow_provider_openai_batches.inference.data.job import Job, Shard

RECORDS_FILE = "batches.json"
# The error code of rows whose shard was held back because the service rejected another one.
NOT_SUBMITTED = "not_submitted"
# The service accepts 2,000 new batches an hour; the rest is for others.
# https://developers.openai.com/api/docs/guides/batch#rate-limits
CREATIONS_AN_HOUR = 1_900
HOUR = 3_600.0
LONGEST_PAUSE = 900.0
# What batches leave open is collected for this part of the time that a batch takes.
POOLED_PART = 0.1
# Seconds of nothing but pauses after which the task fails.
PATIENCE = 86_400.0


class Records(msgspec.Struct):
    """
    The batches of a job by shard, and the state of this try. Times are Unix seconds.

    :param digest: the digest of the results that the job will have, as in the manifest.
    :param started: when this try began; ``first_started`` is when the first try began.
    :param since: since when the service may have batches that are not recorded here; None: there are none.
    :param salt: makes the keys of this try unique, so that earlier batches are not used.
    :param stopped: the shards whose rows were not really asked: they were given up, or an earlier try had
        their batches cancelled.
    :param cut: the same as rounds, in a file that release 0.1 wrote.
    :param token_limits: what the service said that may be in line, in tokens by model.
    :param active_limit: how many batches the enqueued-token limit seems to allow; None: no limit was met.
    :param not_before: no batch is created before this time.
    :param setbacks: the number of pauses in a row.
    :param stuck_since: when the first of them began.
    :param counts_from: since when the time of ``answer_by`` counts.
    :param has_live: whether rows were asked live; their answers are in files of their own.
    :param live_rows: how many rows were answered live, as far as they were counted.
    :param has_canary: whether the first rows were asked live, and were good enough.
    :param measured: the prompt tokens of the canary, divided by what they were estimated to be.
    :param canary_output: the output tokens of a row of the canary.
    :param earlier_output: the output tokens of a request in earlier batches of the task.
    :param is_late: whether this try ended what ran because the time of ``answer_by`` was up.
    :param stored: what was found in the store of answers; None: nobody has looked.
    """

    digest: str
    started: float
    first_started: float = 0
    since: float | None = None
    salt: str = ""
    by_shard: dict[int, Record] = {}
    stopped: set[int] = set()
    cut: set[int] = set()
    token_limits: dict[str, int] = {}
    active_limit: int | None = None
    not_before: float = 0
    setbacks: int = 0
    stuck_since: float | None = None
    counts_from: float = 0
    has_live: bool = False
    live_rows: int = 0
    has_canary: bool = False
    measured: float = 0
    canary_output: float | None = None
    earlier_output: float | None = None
    is_late: bool = False
    stored: StoredAnswers | None = None

    # -- which batches there are ---------------------------------------------------------------------------

    def of(self, shard: int) -> Record:
        return self.by_shard.setdefault(shard, Record(shard))

    def without_batch(self, shards: Iterable[Shard]) -> list[Shard]:
        """Return the shards for which a batch is still to be submitted."""
        return [shard for shard in shards if self.of(shard.index).needs_batch]

    def submitted(self, job: Job) -> list[tuple[Shard, Record]]:
        """Return the shards that have a batch."""
        found = ((shard, self.of(shard.index)) for shard in job.shards)
        return [(shard, record) for shard, record in found if record.batch_id]

    @property
    def active(self) -> list[Record]:
        return [record for record in self.by_shard.values() if record.is_active]

    @property
    def are_own(self) -> bool:
        """Whether all batches that run are certainly this task's."""
        return all(record.is_own for record in self.active)

    @property
    def rejected(self) -> list[Record]:
        return [record for record in self.by_shard.values() if record.error]

    @property
    def has_batches(self) -> bool:
        return any(record.batch_id for record in self.by_shard.values())

    @property
    def has_created(self) -> bool:
        """Whether this job ever created a batch, even one that was rejected."""
        return any(record.batch_id or record.attempt for record in self.by_shard.values())

    @property
    def has_begun(self) -> bool:
        """Whether anything was submitted or asked."""
        return self.has_created or self.has_live

    @property
    def metered(self) -> list[Record]:
        """Those whose batch is over and says how many tokens it took."""
        return [record for record in self.by_shard.values() if record.usage and record.completed]

    @property
    def left_open(self) -> list[Record]:
        """Those of which some rows may have to be asked again."""
        return [record for record in self.by_shard.values() if record.files is not None and record.unfinished]

    def ripe_at(self, shortest: float) -> float:
        """
        Return when what the batches left open is asked again although others still run.

        Waiting for a tenth of the time that a batch takes costs a job little, and each such time makes one
        batch, not one for each batch that ended.

        :param shortest: the shortest wait, in seconds.
        """
        over = [record for record in self.by_shard.values() if record.ended_at]
        usual = statistics.median(record.ended_at - record.created_at for record in over) if over else 0.0
        first = min((record.ended_at for record in self.left_open), default=0.0)
        return first + max(shortest, usual * POOLED_PART)

    def give_up(self, shard: int) -> None:
        """Note that the rows of a shard have to be asked in others: it has no batch that can answer them."""
        record = self.of(shard)
        record.files, record.unfinished = [], UNKNOWN
        self.stopped.add(shard)

    # -- how many there may be -----------------------------------------------------------------------------

    def room(self, now: float, most: int) -> int:
        """
        Return how many batches may be created now.

        :param most: how many may be at the service at the same time.
        """
        if now < self.not_before:
            return 0
        if self.active_limit is not None:
            most = min(most, self.active_limit)
        return max(0, min(most - len(self.active), CREATIONS_AN_HOUR - len(self._created_after(now - HOUR))))

    def next_creation(self, now: float) -> float:
        """Return the time at which the service takes one more batch."""
        created = self._created_after(now - HOUR)
        paced = now if len(created) < CREATIONS_AN_HOUR else created[-CREATIONS_AN_HOUR] + HOUR
        return max(paced, self.not_before)

    def _created_after(self, moment: float) -> list[float]:
        """Return when the batches were created, oldest first."""
        return sorted(record.created_at for record in self.by_shard.values() if record.created_at > moment)

    def recover(self) -> None:
        """End the pauses, and allow one more batch, because something succeeded."""
        self.setbacks, self.stuck_since, self.not_before = 0, None, 0
        if self.active_limit is not None:
            self.active_limit += 1

    def pause(self, why: str, now: float, shortest: float) -> float:
        """
        Create nothing for a while; each pause in a row is longer than the one before.

        :param shortest: the first pause, in seconds.
        :return: the length of this pause, in seconds.
        :raises OpenAIBatchesError: if there was nothing but pauses for a day.
        """
        self.stuck_since = self.stuck_since or now
        if now - self.stuck_since > PATIENCE:
            raise OpenAIBatchesError(
                f"{why}, for a day now. Nothing was lost: another try continues where this one ends. If the "
                "enqueued-token limit is the reason, smaller batches may fit: see max_requests_per_batch."
            )
        seconds = min(shortest * 2.0 ** min(self.setbacks, 16), LONGEST_PAUSE)
        self.setbacks += 1
        self.not_before = now + seconds
        return seconds

    def lose_stored(self) -> None:
        """Note that answers that were found in a store are gone: their rows have to be asked."""
        self.stored = None
        for record in self.by_shard.values():
            record.unfinished = UNKNOWN

    # -- from try to try -----------------------------------------------------------------------------------

    def next_try(self, new: Records) -> Records:
        """
        Return what an earlier try knew, for a new one: rejected shards may be submitted again.

        :param new: the records of the new try, without batches.
        """
        for record in self.rejected:
            record.release()
        for record in self.by_shard.values():
            record.unfinished = UNKNOWN  # more rounds may be allowed now
        return msgspec.structs.replace(
            new,
            first_started=self.first_started or self.started,
            counts_from=new.counts_from or self.counts_from or self.first_started or self.started,
            salt=self.salt,
            by_shard=self.by_shard,
            stopped=self.stopped,
            cut=self.cut,
            token_limits=self.token_limits,
            has_live=self.has_live,
            has_canary=self.has_canary,
            live_rows=self.live_rows,
            measured=self.measured,
            canary_output=self.canary_output,
            earlier_output=self.earlier_output,
            stored=self.stored,
        )

    def save(self, folder: Path) -> None:
        with whole(folder / RECORDS_FILE) as handle:
            handle.write(msgspec.json.encode(self))

    @classmethod
    def load(cls, folder: Any) -> Records | None:
        """Return None if there are no records, or they cannot be read: the service knows more."""
        content = read_bytes(folder / RECORDS_FILE)
        if content is None:
            return None
        try:
            records = msgspec.json.decode(content, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        names = [name for record in records.by_shard.values() for name in record.files or ()]
        is_safe = all(map(is_bare_name, names)) and (records.stored is None or records.stored.is_safe)
        return records if is_safe else None
