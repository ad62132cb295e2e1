"""Asks rows of a job live, where no batch is to be waited for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_openai_batches.api.async_client import AsyncBatchesClient
from airflow_provider_openai_batches.api.endpoints import spec_of
from airflow_provider_openai_batches.exceptions import NoLiveEndpointError, TaskKilled
from airflow_provider_openai_batches.inference.canary import check_first
from airflow_provider_openai_batches.inference.data.findings import Scanner
from airflow_provider_openai_batches.inference.data.followup import request_lines
from airflow_provider_openai_batches.inference.data.job import ROWS_FILE, read_ids
from airflow_provider_openai_batches.inference.data.spending import add_live
from airflow_provider_openai_batches.inference.in_line import OWN_RATIOS
from airflow_provider_openai_batches.inference.live import MAX_UNDER_WAY, ask
from airflow_provider_openai_batches.inference.live_files import LiveFiles
from airflow_provider_openai_batches.inference.own_loop import run_beside
from airflow_provider_openai_batches.inference.records import RECORDS_FILE
from airflow_provider_openai_batches.observability import metrics
from airflow_provider_openai_batches.pricing.cost import Bill

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_provider_openai_batches.inference.data.index import ResultIndex
    from airflow_provider_openai_batches.inference.data.job import Job, LivePart, Shard
    from airflow_provider_openai_batches.inference.job_context import JobContext
    from airflow_provider_openai_batches.inference.live_tally import Tally
    from airflow_provider_openai_batches.inference.results import JobResults
    from airflow_provider_openai_batches.inference.schedule import Schedule, WaitFor


class LiveRows:
    """
    The rows of a job that are asked live, and when.

    :param tell: is called with the job before rows are asked, and once a minute while they are.
    """

    def __init__(
        self, context: JobContext, results: JobResults, tell: Callable[[Job], object] = lambda _: None
    ) -> None:
        self._settings, self._submitter, self._workspace, self._records, self._log = context[:5]
        self._purse = context.purse
        self._results, self._tell = results, tell

    def end(self, job: Job, schedule: Schedule) -> WaitFor | None:
        """
        Finish a job whose time is up: what is left is asked live, or not at all.

        :return: what to wait for first; None if nothing is left to do.
        :raises NoLiveEndpointError: if all rows were to be asked live, and the service cannot do it.
        """
        if wait := schedule.wait_for_the_end():
            return wait
        self._give_up(self._records.without_batch(job.shards))
        self._records.is_late = is_late = schedule.is_late
        if self._records.rejected or (is_late and self._settings.then != "live"):
            return None
        if not is_late and job.rows <= self._settings.canary:
            self._log.info("The canary is as large as the job: all %d rows are asked live", job.rows)
        try:
            self.ask(job)
        except NoLiveEndpointError as error:
            if not is_late:
                raise
            self._log.error("%s. Rows without an answer get the status expired", error)
        return None

    def ask_first(self, job: Job) -> None:
        """
        Ask the rows of the canary, check their answers, and see to it that no batch asks them too.

        :raises CanaryFailed: if the answers are not good enough.
        """
        shards = [shard for shard in job.shards_of(0) if shard.last_row < self._settings.canary]
        self._give_up(self._records.without_batch(shards))
        self.ask(job, self._settings.canary)
        if self._purse.is_empty:
            return
        index = self._results.index(job)
        self._workspace.fetch([ROWS_FILE])
        measured = check_first(index, shards, self._settings, self._log)
        least, most = OWN_RATIOS
        ratio = measured.input_ratio
        self._records.measured = ratio and min(max(ratio, least), most)
        self._records.canary_output = measured.output
        self._records.has_canary = True
        self._records.live_rows = index.live_rows
        for shard in shards:
            rows = range(shard.first_row, shard.last_row + 1)
            self._records.of(shard.index).unfinished = sum(map(index.is_unfinished, rows))

    def ask(self, job: Job, rows: int | None = None) -> None:
        """
        Ask live what has no answer yet.

        :param rows: only the first so many rows.
        :raises TaskKilled: if the task was stopped; what was answered is stored.
        :raises APIError: if the service refuses all.
        """
        self._records.has_live = True
        self._records.save(self._workspace.local)
        self._workspace.store([RECORDS_FILE])
        self._purse.begin_live(job)
        again = self._settings.max_rounds if self._settings.retry_invalid else 0
        for part in job.live_parts():
            for number in range(0 if self._purse.is_empty else 1 + again):
                self._ask_part(job, part, number, job.rows if rows is None else rows)

    def _give_up(self, shards: list[Shard]) -> None:
        for shard in shards:
            self._records.give_up(shard.index)

    def _ask_part(self, job: Job, part: LivePart, number: int, rows: int) -> None:
        files = LiveFiles(self._workspace, part.name, number)
        index = self._results.index(job)
        self._records.live_rows = index.live_rows
        wanted = index.open_rows()
        wanted[rows:] = bytes(len(wanted[rows:]))
        files.mend()  # after the index, which may have dropped them
        for row in self._answered(job, part, files.names):
            wanted[row] = 0
        total = sum(wanted[row] for shard in part.shards for row, _ in read_ids(index.work, shard))
        if total:
            self._tell(job)
            lines = _lines(index, part, wanted)
            bill = Bill(self._settings.prices)

            def note(line: bytes) -> None:
                self._records.live_rows += add_live(bill, line, spec_of(job.endpoint), job.only_model)
                self._purse.paid(line)

            try:
                tally = run_beside(
                    lambda has_to_end: self._run(files, lines, total, note, has_to_end),
                    meanwhile=lambda: self._tell(job),
                )
            finally:
                self._report(bill)
            self._purse.is_empty = tally.is_out_of_money
            if tally.is_stopped:
                raise TaskKilled("The task was stopped while rows were asked live; their answers are stored.")

    def _answered(self, job: Job, part: LivePart, names: list[str]) -> Iterator[int]:
        """Yield the rows whose answers an earlier process wrote to these files."""
        if not names:
            return iter(())
        folder = self._workspace.local
        scanner = Scanner(job, folder, retry_invalid=self._settings.retry_schema)
        return scanner.scan(part.as_shard, [folder / name for name in names]).final_rows()

    def _report(self, bill: Bill) -> None:
        """Count what the rows cost, where that is known."""
        task = self._submitter.task
        for item in bill.cost().items:
            if item.usd is not None:
                metrics.cost(item.usd, task.dag_id, task.task_id, item.model, "live")

    async def _run(
        self,
        files: LiveFiles,
        lines: Iterator[bytes],
        total: int,
        note: Callable[[bytes], None],
        has_to_end: Callable[[], bool],
    ) -> Tally:
        service, endpoint, purse = self._submitter.service, self._settings.spec.endpoint, self._purse

        async def store(line: bytes) -> None:
            await files.write(line)
            note(line)

        client = AsyncBatchesClient(service.config, connections=MAX_UNDER_WAY)
        try:
            return await ask(
                client,
                endpoint,
                lines,
                store,
                may_ask=purse.may_ask,
                log=self._log,
                stop=lambda: service.stopped or has_to_end(),
                total=total,
            )
        finally:
            await files.close()
            await client.aclose()


def _lines(index: ResultIndex, part: LivePart, wanted: bytearray) -> Iterator[bytes]:
    for shard in part.shards:
        for _, _, line in request_lines(shard, index, wanted):
            yield line
