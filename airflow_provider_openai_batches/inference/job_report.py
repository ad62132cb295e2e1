"""What is known of a job while it runs and when it ends, small enough for an XCom of its task."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from airflow_provider_openai_batches.exceptions import OpenAIBatchesError
from airflow_provider_openai_batches.inference.summary import progress_of
from airflow_provider_openai_batches.inference.wait_words import in_words, waiting_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow_provider_openai_batches.api.retry import Log
    from airflow_provider_openai_batches.inference.data.job import Job
    from airflow_provider_openai_batches.inference.data.manifest import Manifest
    from airflow_provider_openai_batches.inference.job_context import JobContext
    from airflow_provider_openai_batches.inference.results import JobResults
    from airflow_provider_openai_batches.inference.schedule import Schedule, WaitFor
    from airflow_provider_openai_batches.inference.wait_words import Held

# The key of the XCom.
JOB_REPORT = "openai_batches_job"
SHOWN_RUNNING, SHOWN_ERROR = 1_000, 500
# How many characters of JSON the ids may have: the page reads no report of more than 65,536.
SHOWN_IDS = 45_000

State: TypeAlias = Literal["waiting", "live", "complete", "failed"]


class Dollars(msgspec.Struct, frozen=True):
    """
    An amount of US dollars.

    :param is_known: whether nothing is missing in it.
    """

    usd: float
    is_known: bool


class JobReport(msgspec.Struct, frozen=True, kw_only=True):
    """
    A job, as its task last saw it.

    :param waits_for: what it waits for, in words.
    :param batches: all batches of the job, including those that are still to be submitted.
    :param finished: how many of them had ended.
    :param answered: rows with an answer, without those of the batches in ``running``.
    :param failed: rows whose request failed, without those of the batches in ``running``.
    :param again: how many times a row was asked again.
    :param rounds: the latest round in which rows are asked again.
    :param live: rows that were answered live; ``answered`` has them too.
    :param running: the ids of the batches that are at the service, or whose results are not collected yet;
        the first ones, if they are many.
    :param running_total: how many these batches are.
    :param cost: what was spent; None: it is not known what was.
    :param estimate: what the whole job is estimated to cost.
    :param at: when this was known, in Unix seconds.
    """

    state: State = "waiting"
    conn_id: str = ""
    waits_for: str = ""
    batches: int = 0
    finished: int = 0
    rows: int = 0
    answered: int = 0
    failed: int = 0
    again: int = 0
    rounds: int = 0
    live: int = 0
    running: list[str] = []
    running_total: int = 0
    cost: Dollars | None = None
    estimate: Dollars | None = None
    at: float = 0
    error: str = ""


Listener: TypeAlias = "Callable[[JobReport], object]"


class Reporter:
    """
    Tells somebody of a job. Nothing that goes wrong here ever ends the job, or hides why it ends.

    :param listener: is called with each report; None: nobody wants to know.
    :param clock: returns the time in Unix seconds.
    """

    def __init__(self, listener: Listener | None, log: Log, clock: Callable[[], float] = time.time) -> None:
        self._listener, self._log, self._clock = listener, log, clock
        self._context: JobContext | None = None
        self._last: JobReport | None = None

    def begin(self, context: JobContext, schedule: Schedule, results: JobResults) -> None:
        """Take note of the job."""
        self._context, self._schedule, self._results = context, schedule, results

    def waits(self, job: Job, held: Held, wait: WaitFor) -> None:
        """
        Tell that the job waits.

        :param held: what kept the last submission from being complete.
        """

        def more(context: JobContext) -> dict[str, Any]:
            return {"waits_for": in_words(waiting_of(context, job, self._schedule, held, wait))}

        self._tell("waiting", job, more)

    def goes_live(self, job: Job) -> None:
        """Tell that rows are going to be asked live."""
        self._tell("live", job)

    def completed(self, manifest: Manifest, job: Job | None = None) -> None:
        """
        Tell that the job is complete.

        :param job: None: an earlier try completed it.
        """
        succeeded = manifest.counts.get("succeeded", 0)
        final = {
            "batches": len(manifest.batches),
            "finished": len(manifest.batches),
            "rows": manifest.rows,
            "answered": succeeded,
            "failed": manifest.rows - succeeded,
            "rounds": max((batch.round for batch in manifest.batches), default=0),
            "live": manifest.live.rows if manifest.live else 0,
            "cost": manifest.cost and Dollars(manifest.cost.usd, manifest.cost.is_known),
        }
        self._tell("complete", job, lambda _: final)

    def ended(self, job: Job | None, error: BaseException | None) -> None:
        """
        Tell that the task failed, if it did so with an error of this provider.

        A job that was complete before, such as one whose table refuses the rows, keeps its figures.
        """
        if isinstance(error, OpenAIBatchesError):
            said = {"error": str(error)[:SHOWN_ERROR]}
            last = self._last
            done = msgspec.structs.asdict(last) if last and last.state == "complete" else {}
            self._tell("failed", None if done else job, lambda _: {**done, **said, "state": "failed"})

    def _tell(
        self,
        state: State,
        job: Job | None,
        more: Callable[[Any], dict[str, Any]] = lambda _: {},
    ) -> None:
        if self._listener is None:
            return
        try:
            known = (
                {}
                if self._context is None or job is None
                else _known(self._context, job, self._results.counts)
            )
            report = JobReport(**{"state": state, **known, **more(self._context), "at": self._clock()})
            self._last = report
            self._listener(report)
        except Exception as failure:  # noqa: BLE001 - the job goes on, or ends as it does
            self._log.warning("What is known of the job could not be stored for others to see: %s", failure)


def with_figures(report: JobReport, last: JobReport) -> JobReport:
    """Return the report of a failed task with the figures of the last one."""
    new = {name: getattr(report, name) for name in ("state", "conn_id", "error", "at")}
    return msgspec.structs.replace(last, waits_for="", **new)


def _running(ids: list[str]) -> dict[str, Any]:
    """Return how many batches run, and the ids of as many as a report has room for."""
    shown, left = [], SHOWN_IDS
    for batch_id in ids[:SHOWN_RUNNING]:
        left -= len(json.dumps(json.dumps(batch_id)))  # Airflow may store JSON in JSON
        if left < 0:
            break
        shown.append(batch_id)
    return {"running": shown, "running_total": len(ids)}


def _known(context: JobContext, job: Job, counts: Mapping[str, int]) -> dict[str, Any]:
    """
    Return what is known of a job; nothing is asked of the service.

    :param counts: the number of rows by status; empty before the results are written.
    """
    progress, rows = progress_of(context.records, job), job.rows
    answered, failed = min(progress["completed"], rows), progress["failed"]
    if counts:
        answered = counts.get("succeeded", 0)
        failed = rows - answered - counts.get("missing", 0)
    whole = context.outlook.whole(job)
    spent = context.purse.spent(job)
    return {
        "batches": progress["batches"],
        "finished": progress["finished"],
        "rows": rows,
        "answered": answered,
        "failed": min(failed, rows - answered),  # some of these were answered live, or elsewhere
        "again": progress["again"],
        "rounds": progress["round"],
        "live": progress["live"],
        **_running([str(record.batch_id) for record in context.records.active]),
        "cost": Dollars(spent.usd, spent.is_known),
        "estimate": Dollars(whole.cost.usd, whole.is_known),
    }
