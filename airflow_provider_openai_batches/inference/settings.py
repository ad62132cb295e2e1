"""The settings of a job, as the user gave them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from airflow_provider_openai_batches.api import models, validation
from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.inference.result_form import check_partition, check_typed
from airflow_provider_openai_batches.pricing.prices import NO_PRICES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_openai_batches.api.validation import FailOn
    from airflow_provider_openai_batches.idempotency.submit import BatchSpec
    from airflow_provider_openai_batches.inference.data.job import Limits
    from airflow_provider_openai_batches.inference.data.output_schema import OutputSchema
    from airflow_provider_openai_batches.inference.data.stored import StoredAnswers
    from airflow_provider_openai_batches.pricing.prices import Prices

# The least and the most that each of these settings may be.
_COUNTS: dict[str, tuple[int, int | None]] = {
    "max_requests_per_batch": (1, models.MAX_REQUESTS),
    "max_bytes_per_batch": (1, models.MAX_FILE_BYTES),
    "max_embedding_inputs_per_batch": (1, models.MAX_EMBEDDING_INPUTS),
    "max_active_batches": (1, None),
    "max_enqueued_tokens": (1, None),
    "max_rounds": (0, None),
    "max_requests": (1, None),
    "canary": (0, None),
}
# Of answer_by: a year.
MOST_SECONDS = 366 * 86_400
# May be None.
_OPTIONAL = frozenset({"max_requests", "max_enqueued_tokens"})
# What happens to rows that have no answer by the time of answer_by.
Then: TypeAlias = Literal["live", "fail", "keep"]
_THEN, _MODES = ("live", "fail", "keep"), ("batch", "live")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """
    How a job is run; the operator's docstring explains each field.

    :param spec: what each batch asks of the service.
    :param enqueued_token_limits: those that the connection names, in tokens by model.
    :param prices: those that hold on the connection.
    :param answer_by: seconds after the job's start, or a time.
    :param answers_max_age: in seconds.
    :param first_try: the number of the first try since the task was cleared: its time counts anew.
    :param key_columns: kept columns whose values, together, each row must have alone.
    :param deadline_seconds: how long one try may take in total; None: as long as its batches may run.
    :param must_end: the Unix time at which this try has to end in any case.
    :param carrier: the W3C trace context of the task's own span in Airflow's traces; None: there is none.
    """

    spec: BatchSpec
    output: str = "text"
    output_format: str = "jsonl"
    typed_output: bool = False
    partition_by: str | None = None
    schema: OutputSchema | None = None
    retry_invalid: bool = False
    limits: Limits | None = None
    max_requests: int | None = None
    max_active_batches: int = 100
    max_enqueued_tokens: int | None = None
    enqueued_token_limits: Mapping[str, int] = {}
    max_rounds: int = 3
    mode: Literal["batch", "live"] = "batch"
    canary: int = 0
    answer_by: float | datetime | None = None
    then: Then = "live"
    deduplicate: bool = False
    answers_uri: Any = None
    answers_max_age: float | None = None
    try_number: int = 1
    first_try: int = 0
    key_columns: tuple[str, ...] = ()
    max_cost: float | None = None
    prices: Prices = NO_PRICES
    fail_on: FailOn = "none"
    overwrite: bool = False
    reuse: bool = True
    delete_input_files: bool = False
    input_expires_after: int | Mapping[str, Any] | None = None
    poll_interval: float = 60.0
    deadline_seconds: float | None = None
    must_end: float | None = None
    carrier: Mapping[str, str] | None = None

    @property
    def retry_schema(self) -> OutputSchema | None:
        """The schema, if answers that do not match it are asked for again."""
        return self.schema if self.retry_invalid else None

    @property
    def begins_anew(self) -> bool:
        """Whether this is the first try since the task was cleared."""
        return self.try_number == self.first_try

    @property
    def has_source(self) -> bool:
        """Whether rows may share answers, so that the results say where each is from."""
        return self.deduplicate or self.answers_uri is not None

    @property
    def has_output_text(self) -> bool:
        """Whether the results have a column for what the type of the output does not hold."""
        return self.typed_output and self.schema is not None

    def check_form(self) -> None:
        """
        Check what the results are to look like, before anything is spent.

        :raises InvalidInputError: naming the argument.
        """
        if self.typed_output:
            has_schema = self.schema is not None
            check_typed(self.output, self.output_format, self.spec.endpoint, has_schema=has_schema)

    def looked_up(self, found: StoredAnswers | None) -> StoredAnswers | None:
        """Return what was found in a store of answers if these settings ask for it, otherwise None."""
        asked = self.answers_uri is not None and self.reuse and (str(self.answers_uri), self.answers_max_age)
        return found if found is not None and asked == (found.uri, found.max_age) else None

    def answer_time(self, started: float) -> float | None:
        """Return ``answer_by`` as a Unix time, for a job that started at this one."""
        given = self.answer_by
        return given.timestamp() if isinstance(given, datetime) else given and started + given


def check_arguments(given: Any) -> None:
    """
    Refuse what is known to be wrong when the DAG is parsed.

    :param given: has the operator's arguments as attributes.
    :raises InvalidInputError: naming the argument.
    """
    sources = [name for name in ("requests", "input_uri", "sql") if getattr(given, name) is not None]
    if len(sources) != 1:
        said = f"this has {' and '.join(sources) or 'none of them'}"
        raise InvalidInputError(f"Give one of requests, input_uri and sql: {said}.")
    if (given.sql is None) != (given.sql_conn_id is None):
        raise InvalidInputError("sql and sql_conn_id belong together: give both.")
    for name, (least, most) in _COUNTS.items():
        if getattr(given, name) is not None or name not in _OPTIONAL:
            validation.check_count(getattr(given, name), name, least, most)
    if given.max_cost is not None:
        validation.check_amount(given.max_cost, "max_cost")
    validation.check_fail_on(given.fail_on)
    if given.retry_invalid and given.output_schema is None:
        raise InvalidInputError(
            "retry_invalid=True needs an output_schema: without one no answer is invalid."
        )
    for name in ("output_expires_after", "input_expires_after"):
        if getattr(given, name) is not None:
            validation.check_expiry(getattr(given, name), name)
    _check_form(given)
    _check_time(given)
    if max_age(given.answers_max_age) is not None and given.answers_uri is None:
        raise InvalidInputError("answers_max_age needs answers_uri: it says how old an answer there may be.")


def max_age(given: Any) -> float | None:
    """
    Read the argument ``answers_max_age``, which is seconds or a timedelta; return seconds.

    :raises InvalidInputError: if it is neither, or not above 0.
    """
    seconds = given.total_seconds() if isinstance(given, timedelta) else given
    return None if seconds is None else validation.check_interval(seconds, "answers_max_age")


def _check_form(given: Any) -> None:
    if given.typed_output:
        has_schema = given.output_schema is not None
        check_typed(given.output_kind, given.output_format, given.endpoint, has_schema=has_schema)
    if given.partition_by is not None:
        check_partition(given.partition_by, given.keep_columns)


def _check_time(given: Any) -> None:
    if given.mode not in _MODES:
        raise InvalidInputError(f"mode is {given.mode!r}: it must be 'batch' or 'live'.")
    if given.then not in (None, *_THEN):
        raise InvalidInputError(f"then is {given.then!r}: it must be 'live', 'fail' or 'keep'.")
    if given.answer_by is None:
        if given.then is not None:
            raise InvalidInputError(
                f"then={given.then!r} needs answer_by: it says what happens at that time."
            )
        return
    if given.mode == "live":
        raise InvalidInputError("answer_by has no meaning with mode='live': no batch is waited for.")
    if isinstance(given.answer_by, int | float | timedelta | datetime):  # others are templates
        answer_by(given.answer_by)


def check_answer_time(settings: Settings, now: float) -> None:
    """
    Refuse a time of ``answer_by`` that is over.

    :param now: Unix seconds.
    :raises InvalidInputError: if it is.
    """
    due = settings.answer_time(now)
    if due is not None and due <= now:
        said = datetime.fromtimestamp(due, UTC).isoformat(" ", "seconds")
        raise InvalidInputError(
            f"The time of answer_by, {said}, is over: nothing was sent. Choose a later one."
        )


def answer_by(given: Any) -> float | datetime | None:
    """
    Read the argument of that name, rendered.

    :param given: seconds, a timedelta, or a time; the first and the last may be text. A time without a zone
        is UTC.
    :raises InvalidInputError: if it is nothing of these, or not above 0.
    """
    value = _of_text(given) if isinstance(given, str) else given
    if not isinstance(value, int | float | timedelta | datetime | None):
        raise InvalidInputError(f"answer_by is a {type(value).__name__}: it must be seconds or a time.")
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, datetime):
        try:
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC)
        except (OverflowError, ValueError):
            raise InvalidInputError(
                f"answer_by is {value!r}: no such time is in the years 1 to 9999."
            ) from None
    if value is None or value < MOST_SECONDS:
        return value if value is None else validation.check_interval(value, "answer_by")
    raise InvalidInputError(
        f"answer_by is {given!r}: it must be a time, or at most {MOST_SECONDS:,} seconds."
    )


def _of_text(text: str) -> float | datetime:
    for read in (float, datetime.fromisoformat):
        try:
            return read(text.strip())
        except ValueError:
            pass
    raise InvalidInputError(
        f"answer_by is {text!r:.80}: it must be seconds or a time such as '2026-01-31T06:00:00+00:00'."
    )
