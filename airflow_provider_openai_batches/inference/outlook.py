"""What a job is going to cost, and how that is known."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from airflow_provider_openai_batches.exceptions import OpenAIBatchesError
from airflow_provider_openai_batches.inference.in_line import kind_of
from airflow_provider_openai_batches.pricing.estimate import Load, estimate

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_provider_openai_batches.api.retry import Log
    from airflow_provider_openai_batches.idempotency.service import Service
    from airflow_provider_openai_batches.inference.budget import Budget
    from airflow_provider_openai_batches.inference.data.job import Job, Shard
    from airflow_provider_openai_batches.inference.in_line import Kind
    from airflow_provider_openai_batches.inference.records import Records
    from airflow_provider_openai_batches.inference.settings import Settings
    from airflow_provider_openai_batches.pricing.cost import Way
    from airflow_provider_openai_batches.pricing.estimate import Basis, Estimate

# How far back, in seconds and batches, earlier batches of the same task are looked for.
EARLIER_SECONDS, EARLIER_BATCHES = 8 * 86_400.0, 1_000


class Outlook:
    """
    What the requests of a job are going to cost.

    :param kind: DAG and task, whose earlier batches tell how long answers are.
    """

    def __init__(
        self, settings: Settings, records: Records, budget: Budget, *, service: Service, kind: Kind, log: Log
    ) -> None:
        self._settings, self._records, self._budget = settings, records, budget
        self._service, self._kind, self._log = service, kind, log

    def estimate(
        self, shards: Iterable[Shard], way: Way = "batch", *, share: float = 1.0, canary: int = 0
    ) -> Estimate:
        """
        Say what the requests of some shards are going to cost.

        :param share: the part of them that is asked.
        :param canary: so many of the job's first rows are asked live.
        """
        per_request, basis = self._output_of_a_request()
        ratio = self._input_ratio()
        loads = [
            Load(
                model=shard.model,
                way="live" if shard.last_row < canary else way,
                requests=round(share * shard.requests),
                input_tokens=round(share * self._input_tokens(shard, ratio)),
                most_output_tokens=_part(shard.most_output_tokens, share),
            )
            for shard in shards
        ]
        return estimate(loads, self._settings.prices, per_request=per_request, basis=basis)

    def _input_ratio(self) -> float:
        """Return how many input tokens there are for each that was estimated; 0: no batch has shown it."""
        metered = self._records.metered
        asked = sum(record.estimated_tokens for record in metered)
        return sum(record.usage.input_tokens for record in metered if record.usage) / asked if asked else 0.0

    def _input_tokens(self, shard: Shard, ratio: float) -> int:
        return round(shard.estimated_tokens * ratio) if ratio else self._budget.tokens(shard)

    def _output_of_a_request(self) -> tuple[float | None, Basis]:
        """Return how many output tokens a request has, as far as that was measured."""
        metered = self._records.metered
        if completed := sum(record.completed for record in metered):
            had = sum(record.usage.output_tokens for record in metered if record.usage)
            return had / completed, "earlier"
        if self._records.canary_output is not None:
            return self._records.canary_output, "canary"
        if self._records.earlier_output is not None:
            return self._records.earlier_output, "earlier"
        return None, "most"

    def whole(self, job: Job, stored: int | None = None) -> Estimate:
        """
        Say what the whole job is going to cost.

        :param stored: how many rows a store of answers has; None: as the records say.
        """
        if stored is None:
            stored = self._records.stored.rows if self._records.stored else 0
        share = max(0, job.rows - job.repeats - stored) / job.rows
        way: Way = "live" if self._settings.mode == "live" else "batch"
        return self.estimate(job.shards_of(0), way, share=share, canary=self._settings.canary)

    def rehearse(self, job: Job, stored: int, now: float) -> Estimate:
        """
        Say what the whole job is going to cost, as well as a dry run can know it.

        :param stored: how many rows a store of answers has.
        :param now: Unix seconds.
        """
        said = self.whole(job, stored)
        if said.output_tokens is not None or said.cost.unpriced:
            return said
        try:
            self.look_at_earlier(now)
        except OpenAIBatchesError as error:
            self._log.info("Earlier batches of the task cannot be read: %s", error)
        return self.whole(job, stored)

    def will_measure(self, job: Job) -> bool:
        """Whether the answers of a canary are going to show how long the others are."""
        settings = self._settings
        return 0 < settings.canary < job.rows and settings.mode == "batch" and not self._records.has_canary

    def look_at_earlier(self, now: float) -> None:
        """Note how many output tokens a request of the task's earlier batches had."""
        completed = output = 0
        since = now - EARLIER_SECONDS
        for batch in islice(self._service.iter_batches_since(since), EARLIER_BATCHES):
            if kind_of(batch) == self._kind and batch.usage and batch.usage.output_tokens:
                completed += batch.counts.completed
                output += batch.usage.output_tokens
        self._records.earlier_output = output / completed if completed else None


def _part(tokens: int | None, share: float) -> int | None:
    return None if tokens is None else round(tokens * share)
