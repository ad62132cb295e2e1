"""What is known of a job between processes: its shards, in ``job.json``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from airflow_provider_openai_batches.api.models import MAX_EMBEDDING_INPUTS, MAX_FILE_BYTES, MAX_REQUESTS
from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.storage import as_path, read_json, whole

if TYPE_CHECKING:
    from airflow_provider_openai_batches.storage import AnyPath

JOB_FILE = "job.json"
ROWS_FILE = "rows.jsonl"


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """
    What one file may hold; smaller limits may be set, larger ones the service refuses.

    https://developers.openai.com/api/docs/guides/batch#rate-limits

    :param max_bytes: the size of a file in bytes.
    :param max_embedding_inputs: the inputs of all embeddings requests of a file.
    :raises InvalidInputError: if a limit is below 1 or above the service's.
    """

    max_requests: int = MAX_REQUESTS
    max_bytes: int = MAX_FILE_BYTES
    max_embedding_inputs: int = MAX_EMBEDDING_INPUTS

    def __post_init__(self) -> None:
        for field in msgspec.structs.fields(self):
            value = getattr(self, field.name)
            if not 1 <= value <= field.default:
                raise InvalidInputError(f"{field.name} is {value}: it is 1 to {field.default}")


class Shard(msgspec.Struct, frozen=True, kw_only=True):
    """
    One request file, which becomes one batch.

    :param index: counts over all rounds of the job.
    :param round: 0 for the first time that its rows are asked, 1 for the first follow-up, …
    :param bytes: the size of the file.
    :param estimated_tokens: of the prompts, at four bytes a token.
    :param sha256: of the file; the same rows give the same file.
    :param first_row: the number of the first row in it, counted from 0; so is ``last_row``.
    """

    index: int
    round: int
    model: str | None
    first_row: int
    last_row: int
    requests: int = 0
    bytes: int = 0
    embedding_inputs: int = 0
    estimated_tokens: int = 0
    sha256: str = ""

    @property
    def file(self) -> str:
        """The name of the request file in the work directory."""
        return f"shard-{self.index:05d}.jsonl"

    @property
    def ids_file(self) -> str:
        """The name of the file that says which row each request is: see :mod:`.ids`."""
        return f"shard-{self.index:05d}.ids.jsonl"


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """
    A job whose request files are written.

    :param digest: of the requests and their order, without those of follow-ups.
    :param rows: of the input.
    """

    digest: str
    endpoint: str
    rows: int
    limits: Limits
    shards: list[Shard]

    @property
    def round(self) -> int:
        """The latest round."""
        return max(shard.round for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Of the request files of the first round."""
        return sum(shard.bytes for shard in self.shards_of(0))

    @property
    def estimated_tokens(self) -> int:
        """Of the prompts of the first round."""
        return sum(shard.estimated_tokens for shard in self.shards_of(0))

    def shards_of(self, round_number: int) -> list[Shard]:
        return [shard for shard in self.shards if shard.round == round_number]

    def save(self, work: AnyPath) -> None:
        with whole(work / JOB_FILE) as handle:
            handle.write(msgspec.json.format(msgspec.json.encode(self), indent=1))

    @classmethod
    def load(cls, work: str | AnyPath) -> Job | None:
        """
        Return the job of a work directory, None if there is none or its files were never completed.

        :raises InvalidInputError: if ``job.json`` is damaged.
        """
        return read_json(as_path(work) / JOB_FILE, cls, "is damaged: {}. Delete it, the job starts anew")


class RowId(msgspec.Struct, frozen=True):
    """The start of a line of ``rows.jsonl``; the kept columns follow."""

    custom_id: str


def work_directory(path: AnyPath) -> AnyPath:
    """Make the directory if it is missing."""
    directory = as_path(path)
    directory.mkdir(parents=True, exist_ok=True)
    return directory
