"""The manifest of a directory of results. It is written last: where it is, the job is complete."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.inference.data.index import Scan
from airflow_provider_openai_batches.inference.data.results import Usage
from airflow_provider_openai_batches.storage import as_path, open_binary, read_json, whole

if TYPE_CHECKING:
    from airflow_provider_openai_batches.storage import AnyPath

MANIFEST_FILE = "manifest.json"
UNREADABLE_FILE = "unreadable.txt"  # result lines that are not JSON, as they came
VERSION = 1
_PROBE_FILE = ".airflow-write-check"


class Part(msgspec.Struct, frozen=True):
    file: str
    rows: int
    bytes: int


class ErrorGroup(msgspec.Struct):
    """All rows with one error code, and the first of them."""

    count: int
    message: str
    custom_id: str


class Merged(msgspec.Struct):
    """
    What was written.

    :param counts: of the rows, by status.
    :param usage: the tokens of all answers that were paid for, including those that are not used.
    :param errors: by code.
    :param scan: what the downloaded files held.
    """

    parts: list[Part] = []
    counts: dict[str, int] = {}
    usage: Usage = msgspec.field(default_factory=Usage)
    errors: dict[str, ErrorGroup] = {}
    scan: Scan = msgspec.field(default_factory=Scan)


class BatchRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One batch of the job; ``counts`` are the service's own."""

    shard: int
    round: int
    batch_id: str
    status: str
    counts: dict[str, int] = {}


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """
    A complete job.

    :param digest: of the job, :attr:`Job.digest`.
    :param times: names and moments, in ISO 8601.
    """

    digest: str
    endpoint: str
    output_format: str
    rows: int
    parts: list[Part]
    counts: dict[str, int]
    usage: Usage
    batches: list[BatchRecord]
    errors: dict[str, ErrorGroup]
    scan: Scan
    times: dict[str, str] = {}
    version: int = VERSION

    @classmethod
    def of(
        cls,
        merged: Merged,
        *,
        digest: str,
        endpoint: str,
        output_format: str,
        batches: list[BatchRecord],
        times: dict[str, str],
    ) -> Manifest:
        return cls(
            digest=digest,
            endpoint=endpoint,
            output_format=output_format,
            rows=sum(part.rows for part in merged.parts),
            batches=batches,
            times=times,
            **{field: getattr(merged, field) for field in Merged.__struct_fields__},
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        values: dict[str, Any] = msgspec.to_builtins(self)
        return values

    def write(self, directory: AnyPath) -> None:
        with whole(as_path(directory) / MANIFEST_FILE) as handle:
            handle.write(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")

    @classmethod
    def read(cls, directory: AnyPath) -> Manifest | None:
        """
        Return the manifest of a directory, None if it has none.

        :raises InvalidInputError: if the file is not a manifest.
        """
        return read_json(as_path(directory) / MANIFEST_FILE, cls, "is not the manifest of a job: {}")


def check_target(
    directory: AnyPath, digest: str | None = None, *, overwrite: bool = False
) -> Manifest | None:
    """
    Check, before anything is spent, that results can be written to the directory and replace no others.

    :param digest: of the job; without it only writing is checked.
    :return: the manifest if the directory holds exactly this job, complete.
    :raises InvalidInputError: if nothing can be written there, or the directory holds another job's results
        and ``overwrite`` is False.
    """
    directory = as_path(directory)
    _check_writing(directory)
    if digest is None:
        return None
    try:
        manifest = Manifest.read(directory)
    except InvalidInputError:
        if overwrite:
            return None
        raise
    if manifest is None or manifest.digest == digest:
        return manifest
    if not overwrite:
        raise InvalidInputError(
            f"{directory} holds the results of another job ({manifest.rows:,} rows, {manifest.endpoint}): "
            "choose another output_uri, or set overwrite=True"
        )
    return None


def _check_writing(directory: AnyPath) -> None:
    probe = directory / _PROBE_FILE
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with open_binary(probe, "wb") as handle:
            handle.write(b"can be deleted\n")
        probe.unlink()
    except Exception as error:  # every store raises its own
        raise InvalidInputError(f"The output directory {directory} cannot be written: {error}") from error
