"""Which model each row of a job is asked about."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_openai_batches.inference.data.job import read_runs

if TYPE_CHECKING:
    from airflow_provider_openai_batches.inference.data.job import Job
    from airflow_provider_openai_batches.storage import AnyPath


class RowModels:
    """
    The models of a job by row, at a byte a row where there are several.

    :param work: the directory of the job; where there are several models, the ids files of the first round
        are read.
    """

    def __init__(self, job: Job, work: AnyPath) -> None:
        shards = job.shards_of(0)
        self._models = list(dict.fromkeys(shard.model for shard in shards))
        self._of_row = bytearray()
        if len(self._models) > 1:
            self._of_row = bytearray(job.rows)
            for shard in shards:
                number = self._models.index(shard.model)
                for row, given in read_runs(work, shard):
                    count = 1 if isinstance(given, str) else given
                    self._of_row[row : row + count] = bytes([number]) * count

    def of(self, row: int) -> str | None:
        return self._models[self._of_row[row]] if self._of_row else self._models[0]
