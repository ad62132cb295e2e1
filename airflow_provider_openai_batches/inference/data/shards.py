"""Writes requests as JSONL files within the limits of the service: the same rows give the same bytes."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, BinaryIO, Self, TypeAlias

import msgspec

from airflow_provider_openai_batches.api.endpoints import spec_of
from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.inference.data.doubles import GivenIds
from airflow_provider_openai_batches.inference.data.job import (
    JOB_FILE,
    ROWS_FILE,
    IdsWriter,
    Job,
    Limits,
    Shard,
    work_directory,
)
from airflow_provider_openai_batches.inference.data.repeats import save_repeats
from airflow_provider_openai_batches.inference.data.requests import name_row
from airflow_provider_openai_batches.storage import open_binary, remove

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from airflow_provider_openai_batches.answer_store.digests import RowDigests
    from airflow_provider_openai_batches.api.endpoints import EndpointSpec
    from airflow_provider_openai_batches.inference.data.job import Cut
    from airflow_provider_openai_batches.inference.data.requests import Request
    from airflow_provider_openai_batches.storage import AnyPath

MAX_MODELS = 100  # one open file each
_BYTES_PER_TOKEN = 4
# The embedding inputs of a request, and the most output tokens that it allows.
Counts: TypeAlias = tuple[int, int | None]


def write_shards(
    requests: Iterable[Request],
    work: AnyPath,
    *,
    endpoint: str,
    limits: Limits | None = None,
    max_requests: int | None = None,
    canary: int = 0,
    completed: Callable[[Shard], None] | None = None,
    digests: RowDigests | None = None,
    deduplicate: bool = False,
) -> Job:
    """
    Write the request files of a job, and ``job.json`` last.

    :param work: the directory of the job; it is made if it is missing.
    :param max_requests: a job with more rows is refused, as soon as its first extra row comes.
    :param canary: so many rows are in files of their own, which come first.
    :param completed: is called with each shard that another one follows; it may take the request file away.
    :param digests: gets the body of each row.
    :param deduplicate: note which rows have the body of an earlier one; it needs ``digests``.
    :raises InvalidInputError: if there are no rows or too many, a body is not JSON or too large for a file,
        or a ``custom_id`` occurs twice; the message names the row.
    """
    work, limits = work_directory(work), limits or Limits()
    remove(work / JOB_FILE)
    envelope, ids = Envelope(endpoint), GivenIds()
    rows = 0
    writer = ShardWriter(work, envelope, limits, completed=completed)
    with open_binary(work / ROWS_FILE, "wb") as rows_file, writer:
        write = _row_writer(rows_file, writer, envelope, ids=ids, spec=spec_of(endpoint), digests=digests)
        for request in requests:
            if rows == max_requests:
                raise InvalidInputError(
                    f"The job has more than max_requests={max_requests} rows: nothing was sent"
                )
            if rows == canary:
                writer.begin_anew()
            write(request)
            rows += 1
    if not rows:
        raise InvalidInputError("The job has no rows")
    ids.check(work, rows)
    repeats = digests.repeats() if deduplicate and digests is not None else ()
    if repeats:
        save_repeats(work, repeats)
    job = Job(
        digest=_digest(endpoint, writer.shards),
        endpoint=endpoint,
        rows=rows,
        limits=limits,
        shards=writer.shards,
        repeats=len(repeats) // 2,
    )
    job.save(work)
    return job


def _row_writer(
    rows_file: BinaryIO,
    writer: ShardWriter,
    envelope: Envelope,
    *,
    ids: GivenIds,
    spec: EndpointSpec,
    digests: RowDigests | None,
) -> Callable[[Request], None]:
    """Return a function that writes one request; names are looked up here once, not for each row."""
    count_inputs, most_output = spec.count_inputs, spec.most_output_tokens
    add, add_id, line_of, write_row = writer.add, ids.add, envelope.line, rows_file.write
    add_body = digests.add if digests is not None else None

    def write(request: Request) -> None:
        try:
            custom_id, body = _encode(request.custom_id), _encode(request.body)
            kept = b"," + _encode(request.kept)[1:-1] if request.kept else b""
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise _not_json(request, error) from error
        inputs = count_inputs(request.body.get("input")) if count_inputs else 0
        line = line_of(custom_id, body)
        counts = inputs, most_output(request.body)
        add(request.row_number, custom_id, line, request.body.get("model"), counts, request.is_named)
        write_row(b'{"custom_id":%b%b}\n' % (custom_id, kept))
        if request.is_named:
            add_id(request.custom_id)
        if add_body:
            add_body(request.row_number, body)

    return write


def _digest(endpoint: str, shards: list[Shard]) -> str:
    return hashlib.sha256("\n".join([endpoint, *(shard.sha256 for shard in shards)]).encode()).hexdigest()


_encode = msgspec.json.Encoder().encode


def _not_json(request: Request, error: Exception) -> InvalidInputError:
    parts = {"custom_id": request.custom_id, "body": request.body, "kept": request.kept}
    return InvalidInputError(
        f"{name_row(request.row_number, request.custom_id)}: {_culprit(parts)} is not JSON: {error}"
    )


def _culprit(value: Any, where: str = "") -> str:
    """Say where the innermost value is that cannot be encoded."""
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, child in children:
        try:
            _encode(child)
        except (TypeError, ValueError, OverflowError):
            return _culprit(child, f"{where}.{key}" if isinstance(value, dict) else f"{where}[{key}]")
        except RecursionError:
            return str(key)
    return where.lstrip(".")


class Envelope:
    """The JSON around ``custom_id`` and body in each request line of a job."""

    def __init__(self, endpoint: str) -> None:
        self._middle = b',"method":"POST","url":%b,"body":' % _encode(endpoint)
        self.size = len(self.line(b"", b""))

    def line(self, custom_id: bytes, body: bytes) -> bytes:
        """Return a request line; both arguments are JSON already."""
        return b'{"custom_id":%b%b%b}\n' % (custom_id, self._middle, body)

    def body(self, line: bytes, custom_id: bytes) -> bytes:
        """Return the body of a request line with this ``custom_id``, which is JSON."""
        return line[self.size + len(custom_id) - 2 : -2]


class ShardWriter:
    """Writes lines to files, one open file per model. A new file begins where a limit would be exceeded."""

    def __init__(
        self,
        work: AnyPath,
        envelope: Envelope,
        limits: Limits,
        *,
        first_index: int = 0,
        round_number: int = 0,
        cut: Cut | None = None,
        completed: Callable[[Shard], None] | None = None,
    ) -> None:
        self.shards: list[Shard] = []
        self._completed = completed
        self._work, self._envelope, self._limits = work, envelope, limits
        self._next_index, self._round, self._cut = first_index, round_number, cut
        self._open: dict[str | None, _OpenShard] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for shard in self._open.values():
            self.shards.append(shard.close())
        self.shards.sort(key=lambda shard: shard.index)

    def begin_anew(self) -> None:
        """Complete all files that are being written; the rows that follow come into others."""
        for model in list(self._open):
            self._complete(model)

    def _complete(self, model: str | None) -> None:
        self.shards.append(self._open.pop(model).close())
        if self._completed is not None:
            self._completed(self.shards[-1])

    def add(  # noqa: PLR0917 - called for each row of a job, and keyword arguments cost time
        self, row: int, custom_id: bytes, line: bytes, model: str | None, counts: Counts, is_named: bool
    ) -> None:
        """
        :param custom_id: as JSON.
        :param counts: the embedding inputs of the request, and the most output tokens that it allows.
        :param is_named: whether the ``custom_id`` was given.
        """
        shard = self._open.get(model)
        if shard is None or not shard.add(row, custom_id, line, counts, is_named):
            shard = self._begin(row, custom_id, model, len(line), counts[0])
            shard.add(row, custom_id, line, counts, is_named)

    def _begin(self, row: int, custom_id: bytes, model: str | None, size: int, inputs: int) -> _OpenShard:
        name = name_row(row, msgspec.json.decode(custom_id))
        if size > self._limits.max_bytes:
            raise InvalidInputError(
                f"{name} is {size:,} bytes as a request, but a file may have {self._limits.max_bytes:,}"
            )
        if inputs > self._limits.max_embedding_inputs:
            raise InvalidInputError(
                f"{name} has {inputs:,} embedding inputs, but a file may have "
                f"{self._limits.max_embedding_inputs:,}"
            )
        if model in self._open:
            self._complete(model)
        elif len(self._open) == MAX_MODELS:
            raise InvalidInputError(
                f"{name} has the model {model!r}: a job may have at most {MAX_MODELS} models"
            )
        limits = self._limits
        if self._cut is not None:
            if size > self._cut.most_bytes:
                raise InvalidInputError(
                    f"{name} has about {-(-size // _BYTES_PER_TOKEN):,} tokens, but the enqueued-token limit "
                    f"of {model or 'the model'} is {self._cut.limit:,}: no batch can hold it"
                )
            limits = msgspec.structs.replace(
                limits, max_bytes=max(size, min(limits.max_bytes, self._cut.piece_bytes))
            )
        shard = Shard(index=self._next_index, round=self._round, model=model, first_row=row, last_row=row)
        self._open[model] = _OpenShard(self._work, shard, limits, self._envelope)
        self._next_index += 1
        return self._open[model]


class _OpenShard:
    """A file that is being written; it counts down what still fits, which is cheap for each row."""

    def __init__(self, work: AnyPath, shard: Shard, limits: Limits, envelope: Envelope) -> None:
        self._shard, self._limits, self._envelope = shard, limits, envelope
        self._sha256 = hashlib.sha256()
        self._requests, self._bytes = limits.max_requests, limits.max_bytes
        self._inputs = limits.max_embedding_inputs
        self._ids_bytes = self._most_output = 0
        self._is_unbound = False
        self._last_row = shard.first_row
        with ExitStack() as stack:
            self._lines = stack.enter_context(open_binary(work / shard.file, "wb"))
            self._ids = stack.enter_context(IdsWriter(open_binary(work / shard.ids_file, "wb")))
            self._files = stack.pop_all()

    def add(self, row: int, custom_id: bytes, line: bytes, counts: Counts, is_named: bool) -> bool:
        """Write a line if there is room for it, and return whether there was."""
        size, (inputs, most_output) = len(line), counts
        if not self._requests or size > self._bytes or inputs > self._inputs:
            return False
        self._lines.write(line)
        self._sha256.update(line)
        if is_named:
            self._ids.name(row, custom_id)
        elif row == self._ids.next_row:
            self._ids.next_row += 1
        else:
            self._ids.begin_run(row)
        self._requests -= 1
        self._bytes -= size
        self._inputs -= inputs
        if most_output is None:
            self._is_unbound = True
        else:
            self._most_output += most_output
        self._ids_bytes += len(custom_id)
        self._last_row = row
        return True

    def close(self) -> Shard:
        self._files.close()
        requests, size = self._limits.max_requests - self._requests, self._limits.max_bytes - self._bytes
        bodies = size - requests * self._envelope.size - self._ids_bytes
        return msgspec.structs.replace(
            self._shard,
            requests=requests,
            bytes=size,
            embedding_inputs=self._limits.max_embedding_inputs - self._inputs,
            estimated_tokens=-(-bodies // _BYTES_PER_TOKEN),
            most_output_tokens=None if self._is_unbound else self._most_output,
            sha256=self._sha256.hexdigest(),
            last_row=self._last_row,
        )
