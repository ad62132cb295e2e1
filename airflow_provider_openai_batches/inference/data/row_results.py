"""The rows of a job with their results, in blocks, and what they add up to."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from airflow_provider_openai_batches.api.usage import usage_of
from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.inference.data.findings import INVALID, NOTHING
from airflow_provider_openai_batches.inference.data.job import RowId
from airflow_provider_openai_batches.inference.data.lines import body_of, read_line
from airflow_provider_openai_batches.inference.data.manifest import OWN, ErrorGroup, Merged
from airflow_provider_openai_batches.inference.data.outcomes import SUCCEEDED, TOO_LATE, Outcome, RowError
from airflow_provider_openai_batches.inference.data.results import Answer, AnswerReader
from airflow_provider_openai_batches.inference.data.spending import model_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airflow_provider_openai_batches.inference.data.index import ResultIndex
    from airflow_provider_openai_batches.inference.data.result_files import ResultFiles
    from airflow_provider_openai_batches.inference.data.row_models import RowModels
    from airflow_provider_openai_batches.pricing.cost import Bill, Way

MAX_ERROR_CODES = 50
_BLOCK_ROWS = 64
Block: TypeAlias = tuple[list[bytes], list[Answer]]


class RowResults(msgspec.Struct):
    """The rows of the job with their results, in order; they are counted in ``merged`` and in the bill."""

    index: ResultIndex
    files: ResultFiles
    reader: AnswerReader
    merged: Merged
    bill: Bill
    models: RowModels
    reusable: bytearray | None

    def blocks(self, lines: Iterator[bytes], numbers: Sequence[int]) -> Iterator[Block]:
        """
        :param lines: of ``rows.jsonl``.
        :param numbers: which rows they are.
        """
        counts = self.merged.counts
        for first in range(0, len(numbers), _BLOCK_ROWS):
            rows, those = list(islice(lines, _BLOCK_ROWS)), numbers[first : first + _BLOCK_ROWS]
            answers = list(map(self._answer, those))
            if self.index.stored_files or self.index.repeats or self.merged.sources is not None:
                answers = list(map(self._with_source, those, answers))
            for row, answer in zip(rows, answers, strict=True):
                outcome = answer.outcome
                counts[outcome.status] += 1
                if answer.finish_reason is not None:
                    self.merged.truncated += 1
                if outcome.error is not None:
                    self._count(outcome.error, row)
            yield rows, answers
            self.files.drop_before(those[-1] + 1)

    def _with_source(self, row: int, answer: Answer) -> Answer:
        """Say where the answer is from; what is no answer to a request of this row alone cost nothing."""
        source, sources = self.index.source(row), self.merged.sources
        if source is not None and sources is not None:
            sources[source] += 1
        is_own, is_whole = source in OWN, answer.outcome is SUCCEEDED and answer.finish_reason is None
        if is_own and is_whole and self.reusable is not None:
            self.reusable[row] = 1
        return msgspec.structs.replace(answer, source=source, usage=answer.usage if is_own else None)

    def _answer(self, row: int) -> Answer:
        state, number, _, _ = self.index.location(row)
        if state == NOTHING:
            return Answer(self.index.nothing, None, None)
        if number in self.index.rejections:
            return Answer(Outcome("failed", error=self.index.rejections[number]), None, None)
        try:
            answer = self.reader.read_line(self.files.read_of(row), answered=state >= INVALID)
        except (ValueError, msgspec.DecodeError) as error:
            raise InvalidInputError(
                f"{self.index.files[number]} was changed while its results were merged"
            ) from error
        self._charge(row, number, answer, is_paid=state >= INVALID)
        is_too_late = answer.outcome.status == "cancelled" and self.index.nothing is TOO_LATE
        return Answer(TOO_LATE, None, None) if is_too_late else answer

    def _charge(self, row: int, number: int, answer: Answer, *, is_paid: bool) -> None:
        """Add the tokens of an answer that this job asked for."""
        if number in self.index.stored_files or self.index.repeats.first_of(row) != row:
            return
        meter = self.bill.meter(self.models.of(row), "live" if number in self.index.live_files else "batch")
        if answer.usage is not None:
            meter.add(answer.usage)
        elif is_paid:  # whether it is valid or not
            meter.unmetered += 1

    def add_superseded(self) -> None:
        """Add the tokens of answers that were replaced by others: they were paid for too."""
        for number, data in self.files.read_all(self.index.superseded):
            line = read_line(data)
            body = line and line.response and body_of(line.response)
            if not body:
                continue
            way: Way = "live" if number in self.index.live_files else "batch"
            meter = self.bill.meter(self.index.job.only_model or model_in(body), way)
            if usage := usage_of(body):
                meter.add(usage)
            else:
                meter.unmetered += 1

    def sum_up(self) -> None:
        """Note what all answers took."""
        self.merged.usage, self.merged.cost = self.bill.usage(), self.bill.cost()

    def _count(self, error: RowError, row: bytes) -> None:
        errors = self.merged.errors
        code = error.code if error.code in errors or len(errors) < MAX_ERROR_CODES else "other"
        group = errors.get(code)
        if group is None:
            errors[code] = ErrorGroup(1, error.message, msgspec.json.decode(row, type=RowId).custom_id)
        else:
            group.count += 1
