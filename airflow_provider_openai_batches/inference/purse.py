"""
What a job may spend.

What was spent is what finished batches and live answers report, whatever try they are from. What runs counts
as its estimate, and so does a finished batch that reports no tokens. Nothing is submitted or asked that would
pass ``max_cost``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from airflow_provider_openai_batches.api.endpoints import spec_of
from airflow_provider_openai_batches.exceptions import CostLimitReached, InvalidInputError
from airflow_provider_openai_batches.inference.data.spending import add_live
from airflow_provider_openai_batches.pricing.cost import Bill, Cost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from airflow_provider_openai_batches.inference.data.job import Job, Shard
    from airflow_provider_openai_batches.inference.outlook import Outlook
    from airflow_provider_openai_batches.inference.records import Records
    from airflow_provider_openai_batches.inference.settings import Settings
    from airflow_provider_openai_batches.inference.shard_record import Record
    from airflow_provider_openai_batches.pricing.cost import Way

# So many rows are asked live before any answer shows what one costs.
LEAST_UNDER_WAY = 4


class Purse:
    """
    The money of one job.

    ``is_empty`` says that something was not asked, because it would have passed ``max_cost``.

    :param live_lines: returns the live answers that were stored.
    """

    def __init__(
        self,
        settings: Settings,
        records: Records,
        outlook: Outlook,
        live_lines: Callable[[], Iterable[bytes]],
    ) -> None:
        self._settings, self._records = settings, records
        self._outlook, self._live_lines = outlook, live_lines
        self._live: Bill | None = None
        self._answers = 0  # how many are in it
        self._before = self._price_of_one = 0.0
        self.is_empty = False

    # -- before --------------------------------------------------------------------------------------------

    def check_start(self, job: Job, now: float) -> None:
        """
        Refuse a job that is going to cost too much, or whose cost nobody can tell.

        Where a canary is going to measure the answers, their length is left to it.

        :param now: Unix seconds.
        :raises InvalidInputError: naming ``max_cost``.
        """
        limit = self._settings.max_cost
        if limit is None:
            return
        has_canary = self._outlook.will_measure(job)
        if not has_canary:
            self._outlook.look_at_earlier(now)
        said = self._outlook.whole(job)
        if said.cost.unpriced:
            raise InvalidInputError(
                f"max_cost={limit:g} needs a price, and there is none of {', '.join(said.cost.unpriced)}: "
                f"{self._settings.prices.hint}. Nothing was sent."
            )
        if said.cost.usd > limit:
            raise InvalidInputError(
                f"The job is estimated to cost more than max_cost={limit:g}: {said}. Nothing was sent."
            )
        if said.output_tokens is None and not has_canary:
            raise InvalidInputError(
                f"max_cost={limit:g} needs to know how long answers may be, and nothing says it: give the "
                f"body {_bounds(job)}, or set canary=20 to measure it. Nothing was sent."
            )

    def check_later_start(self, job: Job, now: float) -> None:
        """Do the same in a later try, unless it found that an earlier one submitted or asked something."""
        if not self._records.has_begun:
            self.check_start(job, now)
        elif self._settings.max_cost is not None and self._outlook.whole(job).output_tokens is None:
            self._outlook.look_at_earlier(now)

    def check_canary(self, job: Job) -> None:
        """
        Stop a job of which the canary says that it would cost too much, or does not say what it would cost.

        :raises CostLimitReached: before anything is submitted.
        """
        limit, said = self._settings.max_cost, self._outlook.whole(job)
        if limit is None:
            return
        if said.cost.usd > limit:
            raise CostLimitReached(
                f"The canary's answers show that the job would cost more than max_cost={limit:g}: {said}. "
                "Nothing was submitted. Another try with a higher max_cost goes on from there."
            )
        if not said.is_known:
            raise CostLimitReached(
                f"The canary's answers do not say what the job would cost, and max_cost={limit:g} needs to "
                f"know it: {said}. Nothing was submitted. Give each model a price in the connection, and the "
                f"body {_bounds(job)}."
            )

    # -- while batches run ---------------------------------------------------------------------------------

    def fitting(self, job: Job, shards: list[Shard]) -> list[Shard]:
        """Return those that may be submitted, the first ones first; none overtakes another."""
        limit = self._settings.max_cost
        if limit is None:
            return shards
        committed, fit = self._committed(job), []
        for shard in shards:
            committed += self._price([shard])
            if committed > limit:
                break
            fit.append(shard)
        return fit

    def is_spent(self, job: Job) -> bool:
        """
        Whether batches are left that cost too much, and nothing runs that may turn out to cost less.

        Their rows are given up for this try.
        """
        waiting = self._records.without_batch(job.shards)
        if waiting and not self._records.active and not self.fitting(job, waiting):
            for shard in waiting:
                self._records.give_up(shard.index)
            self.is_empty = True
        return self.is_empty

    def is_known(self, job: Job) -> bool:
        return self._price(job.shards_of(0)) < float("inf")

    def _price(self, shards: list[Shard], way: Way = "batch") -> float:
        said = self._outlook.estimate(shards, way)
        return said.cost.usd if said.is_known else float("inf")

    def spent(self, job: Job) -> Cost:
        """Return what batches that are over and live answers cost, as far as they say it."""
        bill = Bill(self._settings.prices)
        for shard, record in self._records.submitted(job):
            self._add_batch(bill, job, shard, record)
            if record.usage is None and record.files is not None and record.completed:
                bill.meter(
                    shard.model or record.model or job.only_model, "batch"
                ).unmetered += record.completed
        batches, live = bill.cost(), self._live_bill(job).cost()
        return Cost(
            usd=batches.usd + live.usd,
            unpriced=sorted({*batches.unpriced, *live.unpriced}),
            unmetered=batches.unmetered + live.unmetered,
        )

    def _add_batch(self, bill: Bill, job: Job, shard: Shard, record: Record) -> None:
        if record.usage is not None:
            meter = bill.meter(shard.model or record.model or job.only_model, "batch")
            meter.add_several(record.usage, record.completed or record.total)

    def _committed(self, job: Job, *, has_live: bool = True) -> float:
        """Return what was spent (with the live answers, if ``has_live``), and what runs is going to cost."""
        bill, running = Bill(self._settings.prices), []
        for shard, record in self._records.submitted(job):
            self._add_batch(bill, job, shard, record)
            if record.usage is None and record.may_cost:
                running.append(_described(job, record) if shard.is_found else shard)
        batches = bill.cost()
        if batches.unpriced:
            return float("inf")
        return batches.usd + self._price(running) + (self._live_spent(job) if has_live else 0.0)

    # -- while rows are asked live -------------------------------------------------------------------------

    def _live_bill(self, job: Job) -> Bill:
        """Return what the live answers cost, also those of earlier processes."""
        if self._live is None:
            self._live = Bill(self._settings.prices)
            for line in self._live_lines() if self._records.has_live else ():
                self._add_live(job, line)
        return self._live

    def _add_live(self, job: Job, line: bytes) -> None:
        if self._live is not None:
            self._answers += add_live(self._live, line, spec_of(job.endpoint), job.only_model)

    def _live_spent(self, job: Job) -> float:
        """Return what the live answers cost; those that do not say it count as what was estimated."""
        cost = self._live_bill(job).cost()
        if cost.unpriced:
            return float("inf")
        return cost.usd + (cost.unmetered * self._price_of_row(job) if cost.unmetered else 0.0)

    def _price_of_row(self, job: Job) -> float:
        """Return what a row costs live, as far as it is known before any was asked."""
        if self._outlook.will_measure(job):  # it finds out how long answers are
            cost = self._outlook.estimate(job.shards_of(0), "live").cost
            return float("inf") if cost.unpriced else cost.usd / job.rows
        return self._price(job.shards_of(0), "live") / job.rows

    def begin_live(self, job: Job) -> None:
        """Get ready to ask rows live."""
        self._job = job
        self._live_bill(job)
        if self._settings.max_cost is not None:
            self._price_of_one = self._price_of_row(job)
            self._before = self._committed(job, has_live=False)

    def paid(self, line: bytes) -> None:
        """Note a live answer."""
        self._add_live(self._job, line)

    def may_ask(self, under_way: int) -> bool:
        """
        Whether one row more may be asked.

        :param under_way: how many have no answer yet.
        """
        limit = self._settings.max_cost
        if limit is None:
            return True
        if under_way > LEAST_UNDER_WAY + 2 * self._answers:
            return False  # the first answers show what the others are going to cost
        cost = self._live_bill(self._job).cost()
        if cost.unpriced:
            return False
        metered = self._answers - cost.unmetered
        each = cost.usd / metered if metered else self._price_of_one
        spent = cost.usd + (cost.unmetered * each if cost.unmetered else 0.0)
        return self._before + spent + (under_way + 1) * each <= limit


def _bounds(job: Job) -> str:
    return " or ".join(spec_of(job.endpoint).length_fields) or "a bound"


def _described(job: Job, record: Record) -> Shard:
    """Return what is known of the requests of a batch whose files are gone."""
    shards = job.shards_of(0)
    most = [shard.most_output_tokens for shard in shards]
    known = None if None in most else sum(each or 0 for each in most) * record.total // job.rows
    return msgspec.structs.replace(
        shards[0],
        model=record.model or job.only_model,
        requests=record.total,
        estimated_tokens=record.estimated_tokens,
        most_output_tokens=known,
    )
