"""
The files of a job in its work directory: ``job.json`` with its shards, and which row each request is for.

A row without an id of its own gets the id ``row-<number>``. Each shard has a file that says which rows its
requests are for: a line is ``[row, custom_id]`` for an id that was given, and ``[first, count]`` for
consecutive rows that have no id of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Self

import msgspec

from airflow_provider_openai_batches.api.models import MAX_EMBEDDING_INPUTS, MAX_FILE_BYTES, MAX_REQUESTS
from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.storage import as_path, open_binary, read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_openai_batches.storage import AnyPath

JOB_FILE = "job.json"
ROWS_FILE = "rows.jsonl"


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """
    What one file may hold. Smaller limits may be set; the service refuses larger ones.

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
                raise InvalidInputError(f"{field.name} is {value}: it must be 1 to {field.default}")


class Cut(NamedTuple):
    """
    How requests are cut into files where the enqueued-token limit holds fewer than a file may have.

    :param piece_bytes: the size at which a new file begins.
    :param most_bytes: the size of the largest request that the limit holds.
    :param limit: the limit in tokens.
    """

    piece_bytes: int
    most_bytes: int
    limit: int


class Shard(msgspec.Struct, frozen=True, kw_only=True):
    """
    One request file, which becomes one batch.

    :param index: the shard's number, counted over all rounds of the job.
    :param round: 0 for the first time that its rows are asked, 1 or more for a follow-up.
    :param bytes: the size of the file.
    :param estimated_tokens: the tokens of the request bodies, at four bytes a token.
    :param most_output_tokens: how many output tokens its requests allow; None: not all of them set a bound.
    :param sha256: the digest of the file; the same rows give the same file.
    :param first_row: the number of the first row in it, counted from 0; so is ``last_row``.
    :param is_found: whether its batch was found at the service, and the files of the try that made it are
        gone: it may be about any of the job's rows.
    :param new_rows: of a follow-up, how many of its rows were asked in no shard before.
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
    most_output_tokens: int | None = None
    sha256: str = ""
    is_found: bool = False
    new_rows: int = 0

    @property
    def asked_again(self) -> int:
        """How many of its rows were asked before."""
        return self.requests - self.new_rows if self.round else 0

    @property
    def said_round(self) -> int:
        """Its round, for people: 0 if all its rows are asked for the first time."""
        return self.round if self.asked_again or self.is_found else 0

    @property
    def has_files(self) -> bool:
        """Whether its request file and its ids file were written in this work directory."""
        return bool(self.sha256)

    @property
    def file(self) -> str:
        """The name of the request file in the work directory."""
        return f"shard-{self.index:05d}.jsonl"

    @property
    def ids_file(self) -> str:
        """The name of the file that says which row each request is for."""
        return f"shard-{self.index:05d}.ids.jsonl"

    @property
    def findings_file(self) -> str:
        """The name of the file that says where in the result files each row's answer is."""
        return f"shard-{self.index:05d}.findings"


class LivePart(NamedTuple):
    """Shards of the first round whose rows are asked live together; the same files have their answers."""

    shards: list[Shard]

    @property
    def name(self) -> str:
        """What the names of the files with its answers begin with."""
        return f"{self.shards[0].index:05d}"

    @property
    def as_shard(self) -> Shard:
        """Return it as one shard, which may have an answer to any row from its first to its last."""
        return msgspec.structs.replace(
            self.shards[0],
            index=-1 - self.shards[0].index,
            first_row=min(shard.first_row for shard in self.shards),
            last_row=max(shard.last_row for shard in self.shards),
            is_found=True,
        )


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """
    A job whose request files are written.

    :param digest: the digest of the requests and their order, without those of follow-ups.
    :param rows: the number of rows in the input.
    :param repeats: how many of them have the request of an earlier one, and are not asked. Which ones is in a
        file, see :mod:`.repeats`.
    """

    digest: str
    endpoint: str
    rows: int
    limits: Limits
    shards: list[Shard]
    repeats: int = 0

    @property
    def round(self) -> int:
        """The latest round in which rows are asked again."""
        return max(shard.said_round for shard in self.shards)

    @property
    def only_model(self) -> str | None:
        """The model of all rows; None if there are several, or none is named."""
        models = {shard.model for shard in self.shards_of(0)}
        return models.pop() if len(models) == 1 else None

    @property
    def bytes(self) -> int:
        """The size in bytes of the request files of the first round."""
        return sum(shard.bytes for shard in self.shards_of(0))

    @property
    def estimated_tokens(self) -> int:
        """The estimated tokens of the first round."""
        return sum(shard.estimated_tokens for shard in self.shards_of(0))

    def shards_of(self, round_number: int) -> list[Shard]:
        return [shard for shard in self.shards if shard.round == round_number]

    def shards_over(self, found: Shard) -> list[Shard]:
        """Return the shards of the first round that have rows between a shard's first row and its last."""
        return [
            shard
            for shard in self.shards_of(0)
            if shard.first_row <= found.last_row and found.first_row <= shard.last_row
        ]

    def live_parts(self) -> list[LivePart]:
        """Return the parts of the job whose rows are asked live together."""
        parts: list[list[Shard]] = []
        for shard in self.shards_of(0):
            if parts and sum(each.requests for each in parts[-1]) + shard.requests <= MAX_REQUESTS:
                parts[-1].append(shard)
            else:
                parts.append([shard])
        return [LivePart(shards) for shards in parts]

    def save(self, work: AnyPath) -> None:
        write_json(work / JOB_FILE, self)

    @classmethod
    def load(cls, work: str | AnyPath) -> Job | None:
        """
        Return the job of a work directory; None if there is none, or its files were never completed.

        :raises InvalidInputError: if ``job.json`` is damaged.
        """
        return read_json(as_path(work) / JOB_FILE, cls, "is damaged: {}. Delete it, and the job starts over")


class RowId(msgspec.Struct, frozen=True):
    """The start of a line of ``rows.jsonl``; the kept columns follow."""

    custom_id: str


def work_directory(path: AnyPath) -> AnyPath:
    """Return the directory, and create it if it is missing."""
    directory = as_path(path)
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def default_id(number: int) -> str:
    """Return the custom_id of a row that was not given one."""
    return f"row-{number}"


def row_of_default_id(custom_id: str) -> int | None:
    """Return the row whose :func:`default_id` this is; None if there is no such row."""
    digits = custom_id[4:]
    if custom_id[:4] != "row-" or not (digits.isascii() and digits.isdigit()):
        return None
    row = int(digits)
    return row if custom_id == f"row-{row}" else None


class IdsWriter:
    """
    Writes the ids file of a shard; a context manager.

    For each row that continues a run, the caller increments ``next_row`` itself: a call would cost more.
    """

    def __init__(self, handle: BinaryIO) -> None:
        self._handle = handle
        self._first = self.next_row = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._handle:
            self._end_run()

    def begin_run(self, row: int) -> None:
        """Begin a run with a row that has no id of its own and does not follow the previous row."""
        self._end_run()
        self._first, self.next_row = row, row + 1

    def name(self, row: int, custom_id: bytes) -> None:
        """Write the id that a row was given; ``custom_id`` is already JSON."""
        self._end_run()
        self._handle.write(b"[%d,%b]\n" % (row, custom_id))
        self._first = self.next_row = -1

    def _end_run(self) -> None:
        if self._first < self.next_row:
            self._handle.write(b"[%d,%d]\n" % (self._first, self.next_row - self._first))


def read_runs(work: AnyPath, shard: Shard) -> Iterator[tuple[int, int | str]]:
    """Yield row number and custom_id, or first row number and count, of the shard's requests, in order."""
    decode = msgspec.json.Decoder(tuple[int, int | str]).decode
    with open_binary(work / shard.ids_file) as lines:
        yield from map(decode, lines)


def read_ids(work: AnyPath, shard: Shard) -> Iterator[tuple[int, str]]:
    """Yield row number and custom_id of each request of the shard, in the order of its file."""
    for first, given in read_runs(work, shard):
        if isinstance(given, str):
            yield first, given
        else:
            yield from ((row, default_id(row)) for row in range(first, first + given))
