"""
How many tokens of a model may be in line at the service, and which shards fit in.

The service rejects a batch if its prompt tokens and those of all unfinished batches exceed the account's
limit for the model. Each batch carries the estimate of its tokens in its metadata. So every task, of whatever
DAG, sees in the list how much is in line, whose it is, and what the service said about the limit. While
others wait for room, no task takes more than its share. A task shows that it waits by its first batch: it is
submitted even if it does not fit, and its rejection stands in the list.
https://developers.openai.com/api/docs/guides/batch#rate-limits
"""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING

from airflow_provider_openai_batches.api.models import Batch
from airflow_provider_openai_batches.idempotency import keys
from airflow_provider_openai_batches.inference.data.job import Cut
from airflow_provider_openai_batches.inference.in_line import (
    GOES_ON_WITHIN,
    LIMIT_EXCEEDED,
    WAITS_AT_MOST,
    InLine,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from airflow_provider_openai_batches.idempotency.service import Service
    from airflow_provider_openai_batches.inference.data.job import Shard
    from airflow_provider_openai_batches.inference.in_line import Estimated, Kind
    from airflow_provider_openai_batches.inference.records import Records
    from airflow_provider_openai_batches.inference.settings import Settings

_LIMIT = re.compile(r"limit:\s{0,9}(\d[\d,._'\u2019\s]{0,40})(?:enqueued\s{1,9})?tokens", re.IGNORECASE)
# Of a number that is written as 90,000.00.
_FRACTION = re.compile(r"[.,]\d{1,2}\s*$")
# Seconds, and batches, for which the list is read: older batches are over.
LOOK_BACK = 26 * 3_600.0
MOST_BATCHES, ONE_PAGE = 2_000, 100
# A file that is larger than the limit is cut into pieces of this part of the limit, or of the file if that is
# less.
PIECE = 0.5
# A task that has waited in vain for WAITS_AT_MOST cuts its files to its share of the limit, if that is not
# less than this part of it: smaller batches fit in where others always come first.
LEAST_SHARE = 0.05
# Where no limit is known, a job of more than FEW batches begins with FIRST, to see whether the service takes
# them.
FEW, FIRST = 3, 2

# What a rejection names as its limit has no more digits.
MOST_DIGITS = 15


class Budget:
    """The tokens that the shards of a job may have in line."""

    def __init__(
        self, settings: Settings, service: Service, records: Records, task_key: str, kind: Kind = (None, None)
    ) -> None:
        self._settings, self._service, self._records = settings, service, records
        self._task_key, self._kind = task_key, kind
        self._lines: dict[str, InLine] = {}

    def limit(self, model: str | None) -> int | None:
        """Return the limit in tokens; what the service said counts more than what it was configured to be."""
        name = model or ""
        learnt = self._records.token_limits.get(name)
        settings = self._settings
        return learnt or settings.max_enqueued_tokens or settings.enqueued_token_limits.get(name)

    def tokens(self, shard: Shard) -> int:
        """Return the estimated tokens of a shard, corrected by what finished batches of the model had."""
        ratio = self._line(shard.model).ratio(self._kind, self._records.measured)
        return round(shard.estimated_tokens * ratio)

    def _line(self, model: str | None) -> InLine:
        return self._lines.get(model or "") or InLine([], self._task_key)

    def learn(self, model: str | None, said: str) -> bool:
        """Note the limit that a rejection names; False if it names none."""
        limit = limit_in(said)
        if limit is None:
            return False
        self._records.token_limits[model or ""] = limit
        return True

    def look(self, shards: list[Shard], now: float) -> None:
        """
        Read in the list what is in line, what finished batches had, and what was rejected.

        A job of few batches whose models have no limit that anybody knows needs no list.

        :param shards: all of the job.
        """
        waiting = self._records.without_batch(shards)
        is_known = any(self.limit(shard.model) is not None for shard in waiting)
        if not is_known and len(waiting) <= FEW:
            return
        most = MOST_BATCHES if is_known else ONE_PAGE
        by_model: dict[str, list[Estimated]] = {}
        listed: set[str] = set()
        for batch in islice(self._service.iter_batches_since(now - LOOK_BACK), most):
            if estimate := keys.estimate_of(batch):
                listed.add(batch.id)
                by_model.setdefault(estimate[1], []).append((estimate[0], batch))
        for shard in shards:
            if own := self._unlisted(shard, listed):
                by_model.setdefault(shard.model or "", []).insert(0, (shard.estimated_tokens, own))
        for model, batches in by_model.items():
            self._learn_from(model, batches, now)
        soon = now - GOES_ON_WITHIN * self._settings.poll_interval
        self._lines = {
            model: InLine(each, self._task_key, now, soon, self._idle_since(model, shards))
            for model, each in by_model.items()
        }

    def _idle_since(self, model: str, shards: list[Shard]) -> float | None:
        """Return when a batch of the model was created, or ended, last; None: there was none."""
        records = [self._records.of(shard.index) for shard in shards if (shard.model or "") == model]
        return max((max(record.created_at, record.ended_at) for record in records), default=0.0) or None

    def _unlisted(self, shard: Shard, listed: set[str]) -> Batch | None:
        """Return a running batch of the job that the list lacks, or shows without its estimate."""
        record = self._records.of(shard.index)
        if not record.is_active or record.is_over or record.batch_id in listed:
            return None
        key = {keys.KEY: f"{self._task_key}-"}
        return Batch(str(record.batch_id), record.status, created_at=int(record.created_at), metadata=key)

    def _learn_from(self, model: str, batches: list[Estimated], now: float) -> None:
        """
        Note what the service said to any task; the list is newest first, so the first one counts.

        A limit that was configured is overruled by what was said of late alone: it may have been raised.
        """
        since = 0.0 if self.limit(model) is None else now - WAITS_AT_MOST
        for _, batch in batches:
            for item in batch.error_items if (batch.created_at or 0) >= since else ():
                if item.code == LIMIT_EXCEEDED and model not in self._records.token_limits:
                    self.learn(model, item.message or "")

    def most(self, model: str | None) -> int:
        """Return how many tokens a batch may have; 0: no limit is known."""
        limit, line = self.limit(model) or 0, self._line(model)
        return round(limit * max(LEAST_SHARE, 1 / len(line.tasks))) if line.is_in_vain else limit

    def is_too_large(self, shard: Shard) -> bool:
        """
        Whether the shard can never be taken, or has waited in vain because smaller ones came first.

        Its estimate says so, or rejections do that came although nothing is in line. They may also be due to
        batches that the list does not show, so the more wrong the estimate would be, the more it takes.
        """
        limit = self.limit(shard.model)
        if limit is None:
            return False
        is_alone = shard.requests > 1 and not self._line(shard.model).tokens
        tokens, rejections = self.tokens(shard), self._records.of(shard.index).attempt
        is_larger = tokens > limit or (shard.requests > 1 and tokens > self.most(shard.model))
        return is_larger or (is_alone and rejections >= 1 + limit / max(1, tokens))

    def fitting(self, shards: list[Shard], total: int) -> list[Shard]:
        """
        Return those that fit beside what is in line, the first ones first; none overtakes another.

        :param total: how many shards the job has.
        """
        untested = self._untested(total)
        fit: list[Shard] = []
        new = self._new_in_line(shards)
        taken: dict[str, float] = {}
        full: set[str] = set()
        for shard in shards:
            name, line, limit = shard.model or "", self._line(shard.model), self.limit(shard.model)
            before, tokens = taken.get(name, 0.0), self.tokens(shard)
            if limit is not None:
                is_first = not (fit or self._records.has_created)
                is_full = not (is_first or line.has_room(limit, before, tokens)) or (before and name in new)
            else:
                untested -= line.tokens + before + tokens > line.proven
                is_full = untested < 0
            if is_full or name in full:
                full.add(name)
            else:
                taken[name] = before + tokens
                fit.append(shard)
        return fit

    def _untested(self, total: int) -> int:
        """
        Return how many batches may be submitted that are more than was ever in line, where no limit is known.

        First it is few, and later half of those that were taken.
        """
        created = [record for record in self._records.by_shard.values() if record.batch_id]
        unknown = sum(record.status == "validating" for record in created)
        taken = len(created) - unknown
        first = FIRST if total > FEW else FEW
        return (max(FIRST, taken // 2) if taken else first) - unknown

    def _new_in_line(self, shards: list[Shard]) -> set[str]:
        """
        Return the models of which one batch is submitted first, because nothing was submitted yet.

        Jobs that begin at the same moment see one another then, before each of them fills the line. A job
        that needs less than half of the limit does not wait for that.
        """
        if self._records.has_created:
            return set()
        wanted: dict[str, int] = {}
        for shard in shards:
            wanted[shard.model or ""] = wanted.get(shard.model or "", 0) + self.tokens(shard)
        return {name for name, tokens in wanted.items() if (limit := self.limit(name)) and tokens * 2 > limit}

    @property
    def is_shared(self) -> bool:
        """Whether others have batches in line, so that there may be room before a batch of this job ends."""
        return any(line.tokens > line.own for line in self._lines.values())

    def others(self, model: str | None) -> int:
        """Return how many other tasks share the limit, because some of them wait for room; 0: none waits."""
        line = self._line(model)
        return len(line.tasks) - 1 if line.are_waiting else 0

    def piece_of(self, shard: Shard) -> Cut:
        """Return how a shard that is too large is cut."""
        limit = self.limit(shard.model) or 0
        per_token = shard.bytes / max(1, self.tokens(shard))
        piece = min(self.most(shard.model) * PIECE * per_token, shard.bytes * PIECE)
        return Cut(max(1, int(piece)), max(1, int(limit * per_token)), limit)

    def progress(self, shards: Iterable[Shard]) -> Mapping[str, int]:
        """Return the tokens in line and the limit, over the models of these shards."""
        models = {shard.model for shard in shards if shard.model or not shard.is_found}
        known = {model: limit for model in models if (limit := self.limit(model)) is not None}
        if not known or not self._lines:  # nobody has looked at the list
            return {}
        return {
            "tokens_in_line": round(sum(self._line(model).tokens for model in known)),
            "token_limit": sum(known.values()),
        }


def limit_in(said: str) -> int | None:
    """Return the number in the words of a rejection, such as ``Limit: 90,000 enqueued tokens``."""
    found = _LIMIT.search(said)
    digits = re.sub(r"\D", "", _FRACTION.sub("", found[1])) if found else ""
    return int(digits) or None if 0 < len(digits) <= MOST_DIGITS else None
