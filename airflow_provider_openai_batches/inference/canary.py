"""Checks the answers of the first rows of a job, before anything is spent on the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from airflow_provider_openai_batches.exceptions import CanaryFailed
from airflow_provider_openai_batches.inference.data.job import RowId
from airflow_provider_openai_batches.inference.data.merge import read_first
from airflow_provider_openai_batches.inference.summary import errors_in_words, failure, in_words

if TYPE_CHECKING:
    from airflow_provider_openai_batches.api.retry import Log
    from airflow_provider_openai_batches.api.usage import Usage
    from airflow_provider_openai_batches.inference.data.index import ResultIndex
    from airflow_provider_openai_batches.inference.data.job import Job, Shard
    from airflow_provider_openai_batches.inference.settings import Settings

SHOWN, SHOWN_CHARACTERS = 2, 500


class Measured(NamedTuple):
    """
    What the canary's answers show.

    :param input_ratio: their input tokens, divided by what they were estimated to be; 0: no answer says it.
    :param output: the output tokens of a row; None: no answer says it.
    """

    input_ratio: float
    output: float | None


def check_first(index: ResultIndex, shards: list[Shard], settings: Settings, log: Log) -> Measured:
    """
    Check the answers of the canary's rows, show two of them, and say what the whole job will take.

    :param shards: those that the canary's rows are in.
    :raises CanaryFailed: if their answers would fail the task.
    """
    merged, blocks = read_first(index, settings.canary, schema=settings.schema, prices=settings.prices)
    pairs = (pair for rows, answers in blocks for pair in zip(rows, answers, strict=True))
    for row, answer in list(pairs)[:SHOWN]:
        custom_id, error = msgspec.json.decode(row, type=RowId).custom_id, answer.outcome.error
        said = error.message if error else answer.output
        text = said if isinstance(said, str) else msgspec.json.encode(said).decode()
        log.info("Canary, %s: %s: %s", custom_id, answer.outcome.status, text[:SHOWN_CHARACTERS])
    if problem := failure(merged.counts, settings.fail_on):
        raise CanaryFailed(
            f"The canary failed: nothing was submitted. {problem} The other "
            f"{index.job.rows - settings.canary:,} rows were not asked.{errors_in_words(merged)}"
        )
    asked = sum(answer.usage is not None for _, answers in blocks for answer in answers)
    estimated = sum(shard.estimated_tokens for shard in shards) * asked / settings.canary
    measured = merged.usage.input_tokens / estimated if estimated else 0.0
    said = _outlook(merged.usage, measured, index.job, asked) if asked else "None of its rows had to be asked"
    log.info("Canary: %s, cost: %s. %s", in_words(merged.counts), merged.cost, said)
    return Measured(measured, merged.usage.output_tokens / asked if asked else None)


def _outlook(usage: Usage, measured: float, job: Job, asked: int) -> str:
    """
    Say how many tokens the whole job will have, as far as its first rows tell.

    :param asked: how many of these have their tokens in ``usage``.
    """
    return (
        f"{usage.input_tokens / asked:,.0f} input and {usage.output_tokens / asked:,.0f} "
        f"output tokens a row; the whole job of {job.rows:,} rows will have about "
        f"{measured * job.estimated_tokens:,.0f} and {usage.output_tokens * job.rows / asked:,.0f}"
    )
