"""How many requests a store gets: each one costs time, and money."""

from __future__ import annotations

import io
import json
import uuid
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
from inferencekit import job, rows, waits
from support import run_task

from airflow_provider_openai_batches.inference.data.readers import read_rows
from airflow_provider_openai_batches.storage import as_path

if TYPE_CHECKING:
    from cloudkit import MotoStore

    from airflow_provider_openai_batches.devserver import DevServer


def new(s3: MotoStore) -> str:
    return f"s3://aws_default@bucket/{uuid.uuid4().hex}"


def put(uri: str, count: int, suffix: str, content: bytes) -> None:
    fs, place = as_path(uri).fs, as_path(uri).path
    fs.pipe({f"{place}/{n:03d}{suffix}": content for n in range(count)})


def parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"n": [1, 2]}), sink)
    return sink.getvalue()


def lists(s3: MotoStore) -> int:
    return sum(request.endswith("?list") for request in s3.requests)


def test_a_directory_of_200_files(s3: MotoStore) -> None:
    """One listing, and one read of each."""
    uri = new(s3)
    put(uri, 200, ".jsonl", b'{"n": 1}\n{"n": 2}\n')
    s3.requests.clear()
    assert len(list(read_rows(uri))) == 400
    assert (len(s3.requests), lists(s3)) == (201, 1)


def test_parquet_files_and_a_pattern(s3: MotoStore) -> None:
    uri = new(s3)
    put(uri, 20, ".parquet", parquet())
    for pattern in ("", "/*.parquet", "/0*"):
        s3.requests.clear()
        assert len(list(read_rows(f"{uri}{pattern}"))) == 40
        assert len(s3.requests) <= 23
        assert s3.counts()["HEAD"] <= 1


def test_one_file(s3: MotoStore) -> None:
    uri = new(s3)
    put(uri, 1, ".jsonl", b'{"n": 1}\n')
    s3.requests.clear()
    assert list(read_rows(f"{uri}/000.jsonl")) == [{"n": 1}]
    assert len(s3.requests) <= 2


def test_a_job_of_50_000_rows(server: DevServer, s3: MotoStore) -> None:
    """On the output side, with one look at whether the service takes the file; a further look costs 4."""
    uri = new(s3)
    server.settings(validating_seconds=0.05, batch_seconds=10)
    looks = sum(1 for _ in waits(job(uri, requests=rows(50_000), poll_interval=0.6)))
    assert len(s3.requests) <= 30 + 4 * max(0, looks - 2), s3.requests
    manifest = json.loads(as_path(uri).fs.cat_file(f"{as_path(uri).path}/manifest.json"))
    assert manifest["counts"]["succeeded"] == 50_000


def test_a_job_of_many_batches(server: DevServer, s3: MotoStore) -> None:
    """A batch more costs its own four files, and no listing."""
    uri = new(s3)
    run_task(job(uri, requests=rows(200), max_requests_per_batch=10))
    assert s3.counts()["HEAD"] == 0
    assert lists(s3) <= 10
    assert len([each for each in s3.requests if each.startswith("PUT")]) <= 20 * 4 + 20
