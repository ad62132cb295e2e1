"""The interface of a format for the parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import msgspec

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from airflow_provider_openai_batches.inference.data.job import Job
    from airflow_provider_openai_batches.inference.data.results import Answer
    from airflow_provider_openai_batches.storage import AnyPath


class Columns(msgspec.Struct, frozen=True, kw_only=True):
    """
    Which columns the parts have.

    :param whole_body: whether each output is the body of a response.
    :param has_source: whether the last column says where each result is from.
    :param output_type: that of a structured output, see :mod:`.output_types`; None: it is JSON in text.
    :param partition_by: the kept column that the names of directories have, and the parts do not.
    :param vector_size: how many numbers the vector of each row has; None: that may differ.
    """

    whole_body: bool = False
    has_source: bool = False
    output_type: Any = None
    partition_by: str | None = None
    vector_size: int | None = None


class PartWriter(Protocol):
    """Opens the parts of one job, all with the same columns."""

    suffix: str

    def __init__(self, job: Job, work: AnyPath, columns: Columns) -> None:
        """:param work: the directory of the job, with the kept columns of its rows."""

    @staticmethod
    def check() -> None:
        """
        Make sure that what the format needs is installed.

        :raises InvalidInputError: if it is not.
        """

    def open(self, handle: BinaryIO) -> AbstractContextManager[OpenPart]: ...


class OpenPart(Protocol):
    """A part that is being written."""

    def write(self, rows: list[bytes], answers: list[Answer]) -> None:
        """
        Add some rows.

        :param rows: their first columns, lines of ``rows.jsonl``.
        """
