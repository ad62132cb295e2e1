"""Finished jobs on disk, as an inference task leaves them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from jobkit import CHAT, Service, prepare
from support import task_context

from airflow_provider_openai_batches.inference.data.manifest import MANIFEST_FILE, Manifest, Part
from airflow_provider_openai_batches.inference.data.merge import merge
from airflow_provider_openai_batches.inference.data.output_schema import OutputSchema
from airflow_provider_openai_batches.storage import write_json
from airflow_provider_openai_batches.transfers.openai_batch_results_to_sql import (
    OpenAIBatchResultsToSqlOperator,
)

if TYPE_CHECKING:
    from pathlib import Path

SECOND = iter(range(10**9))


def finished(
    directory: Path,
    rows: list[dict[str, Any]],
    *,
    faults: dict[str, str] | None = None,
    schema: Any = None,
    output_format: str = "jsonl",
    rows_per_part: int = 4,
    id_column: str | None = "id",
    keep_columns: Any = (),
    **options: Any,
) -> str:
    """
    Make a job whose answers are the rows' own ``text``, merged by the real code, and return its URI.

    :param faults: custom_id → one of jobkit's FAULTS; it is never answered.
    :param options: further arguments of ``merge``.
    """
    work = directory / "_job"
    work.mkdir(parents=True)
    job = prepare(work, rows, body="{text}", id_column=id_column, keep_columns=keep_columns)
    service = Service(work, {(0, custom_id): fault for custom_id, fault in (faults or {}).items()})
    form = None if schema is None else OutputSchema(schema, strict=False)
    merged = merge(
        service.index(job),
        directory,
        schema=form,
        output_format=output_format,
        rows_per_part=rows_per_part,
        **options,
    )
    manifest = Manifest(
        digest=job.digest,
        endpoint=CHAT,
        output_format=output_format,
        rows=job.rows,
        parts=merged.parts,
        counts=merged.counts,
        usage=merged.usage,
        batches=[],
        errors=merged.errors,
        scan=merged.scan,
        cost=merged.cost,
        times={"finished": str(next(SECOND))},
    )
    write_json(directory / MANIFEST_FILE, manifest)
    return str(directory)


def landed(directory: Path, rows: list[dict[str, Any]], rows_per_part: int = 50_000) -> str:
    """Write rows of any form as the JSON lines of a finished job, and return its URI."""
    directory.mkdir(parents=True)
    parts = []
    for number, first in enumerate(range(0, len(rows), rows_per_part)):
        path = directory / f"part-{number:05d}.jsonl"
        some = rows[first : first + rows_per_part]
        path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in some))
        parts.append({"file": path.name, "rows": len(some), "bytes": path.stat().st_size})
    manifest = {
        "digest": "d",
        "endpoint": CHAT,
        "output_format": "jsonl",
        "rows": len(rows),
        "parts": parts,
        "counts": {"succeeded": len(rows)},
        "usage": {},
        "batches": [],
        "errors": {},
        "scan": {},
        "times": {"finished": str(next(SECOND))},
    }
    write_json(directory / MANIFEST_FILE, manifest)
    return str(directory)


def row(custom_id: str, output: Any, status: str = "succeeded", **kept: Any) -> dict[str, Any]:
    """A row of results, as it stands in JSON lines."""
    tail = {"status": status, "output": output, "usage": None, "error": None, "finish_reason": None}
    return {"custom_id": custom_id, **kept, **tail}


def change_manifest(directory: Path, **changes: Any) -> None:
    path = directory / MANIFEST_FILE
    manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    write_json(path, msgspec.structs.replace(manifest, **changes))


def part_of(directory: Path, file: str, rows: int) -> Part:
    """What a manifest says of a file as it is now."""
    return Part(file=file, rows=rows, bytes=(directory / file).stat().st_size)


LABELS = {"label": "output"}


def write(results: Any, **options: Any) -> Any:
    """Run the task, in a new object as in each try."""
    arguments = {"conn_id": "warehouse", "table": "labels", "columns": LABELS, **options}
    operator = OpenAIBatchResultsToSqlOperator(task_id="load", results=results, **arguments)
    return operator.execute(task_context(operator))


def answers(folder: Path, *outputs: Any, name: str = "out", first: int = 0) -> str:
    rows = [row(f"r{number}", output) for number, output in enumerate(outputs, first)]
    return landed(folder / name, rows, rows_per_part=2)
