"""Parts in directories by the value of a kept column, as Hive has them."""

from __future__ import annotations

import json
import urllib.parse
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jobkit import Service, prepare
from resultskit import change_manifest, finished
from upath import UPath

from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.inference.data import merge as merging
from airflow_provider_openai_batches.inference.data.merge import merge
from airflow_provider_openai_batches.inference.data.partitions import NULL, Partitions, folder_of
from airflow_provider_openai_batches.results import read_results

if TYPE_CHECKING:
    from pathlib import Path

DAYS = ["mon", "tue", "mon", None, "tue", "mon", "mon"]
ROWS = [{"id": f"a{n}", "text": f"Text {n}", "day": day, "size": n} for n, day in enumerate(DAYS)]
ORDER = [0, 2, 5, 6, 1, 4, 3]
BY: dict[str, Any] = {"keep_columns": ["day", "size"], "partition_by": "day"}


def names(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.glob("*=*/**/*"))


@pytest.mark.parametrize("output_format", ["jsonl", "parquet"])
def test_parts(tmp_path: Path, output_format: str) -> None:
    """Each value has its rows in the order of the input, and the files do not have the column."""
    out = tmp_path / "out"
    uri = finished(out, ROWS, output_format=output_format, rows_per_part=3, faults={"a2": "invalid"}, **BY)
    assert names(out) == [
        f"day={name}.{output_format}"
        for name in (f"{NULL}/part-00000", "mon/part-00000", "mon/part-00001", "tue/part-00000")
    ]
    results = read_results(uri)
    assert [(part.file.split(".")[0], part.rows, part.partition) for part in results.manifest.parts] == [
        ("day=mon/part-00000", 3, {"day": "mon"}),
        ("day=mon/part-00001", 1, {"day": "mon"}),
        ("day=tue/part-00000", 2, {"day": "tue"}),
        (f"day={NULL}/part-00000", 1, {"day": None}),
    ]
    rows = list(results)
    assert [(row["custom_id"], row["day"], row["size"]) for row in rows] == [
        (f"a{n}", DAYS[n], n) for n in ORDER
    ]
    assert [row["output"] for row in rows] == [None if n == 2 else f"Text {n}" for n in ORDER]
    table = results.to_arrow()
    assert table["day"].to_pylist() == [DAYS[n] for n in ORDER]
    assert table["size"].to_pylist() == ORDER


def test_readers_find_the_column_in_the_names(tmp_path: Path) -> None:
    finished(tmp_path / "out", ROWS, output_format="parquet", **BY)
    files = [str(path) for path in (tmp_path / "out").glob("day=*/*.parquet")]
    base = str(tmp_path / "out")
    table = ds.dataset(files, partitioning="hive", partition_base_dir=base).to_table().sort_by("size")
    assert table["day"].to_pylist() == DAYS


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2, None], pa.int64()),
        ([1, 2.5], pa.float64()),
        ([True, False], pa.bool_()),
        ([1, "x"], pa.string()),
        ([None, None], pa.string()),
        ([2**70, 1], pa.string()),
    ],
)
def test_the_column_keeps_its_type(tmp_path: Path, values: list[Any], kind: Any) -> None:
    """As other kept columns do, values of several types become text."""
    rows = [{"id": f"a{n}", "text": "x", "day": value} for n, value in enumerate(values)]
    uri = finished(tmp_path / "out", rows, output_format="parquet", keep_columns="day", partition_by="day")
    assert read_results(uri).to_arrow().schema.field("day").type == kind
    as_text = [None if value is None else str(value) for value in values]
    assert [row["day"] for row in read_results(uri)] == (as_text if kind == pa.string() else values)


ODD = [
    "a/b",
    "../x",
    "..",
    ".",
    "a=b",
    "100%",
    "é 🚀",
    "a b",
    'q"',
    "\\",
    "x\ny",
    "[*]?",
    "#",
    "~",
    "+",
    "a:b",
]
ODD += ["\x00", "%2F", "None", "&", "{}"]


def test_odd_values(tmp_path: Path) -> None:
    """None of them leads anywhere else, and each is read as it was."""
    rows = [{"id": f"a{n}", "text": "x", "k/=y": value} for n, value in enumerate(ODD)]
    out = tmp_path / "out"
    finished(out, rows, keep_columns=["k/=y"], partition_by="k/=y")
    folders = {path.parent for path in tmp_path.glob("**/part-*")}
    assert {folder.parent for folder in folders} == {out}
    assert len(folders) == len(ODD)
    assert {urllib.parse.unquote(folder.name) for folder in folders} == {f"k/=y={value}" for value in ODD}
    assert [row["k/=y"] for row in read_results(out)] == ODD


def test_odd_values_in_a_store(tmp_path: Path) -> None:
    """Its objects have the names that files have."""
    rows = [{"id": f"a{n}", "text": "x", "k/=y": value} for n, value in enumerate(ODD)]
    disk, store = tmp_path / "out", UPath("memory://odd-values/out")
    finished(disk, rows, keep_columns=["k/=y"], partition_by="k/=y")
    (tmp_path / "work").mkdir()
    job = prepare(tmp_path / "work", rows, body="{text}", id_column="id", keep_columns=["k/=y"])
    index = Service(tmp_path / "work").index(job)
    for _ in range(2):  # the second time finds the parts of the first one
        merge(index, store, partition_by="k/=y")
        written = {name.removeprefix("/odd-values/out/") for name in store.fs.find(store.path)}
        assert written == {str(path.relative_to(disk)) for path in disk.glob("*=*/part-*")}
    store.fs.put_file(str(disk / "manifest.json"), f"{store.path}/manifest.json")
    assert [row["k/=y"] for row in read_results("memory://odd-values/out")] == ODD
    merge(index, store)
    assert [name.rsplit("/", 1)[-1] for name in store.fs.find(store.path)] == ["part-00000.jsonl"]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60), st.text(min_size=1, max_size=5))
def test_any_text_names_one_directory(text: str, column: str) -> None:
    try:
        name = folder_of(column, text)
    except InvalidInputError:
        assert len(urllib.parse.quote(text)) > 200 or text == NULL
        return
    except UnicodeEncodeError:
        return  # a column with a lone surrogate is no JSON
    assert not set(name) & set("/\\\0\n")
    assert name not in {".", ".."}
    assert name.count("=") == 1
    assert urllib.parse.unquote(name.split("=")[1]) == (text or NULL)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([["x"]], r"Row 0 \(custom_id 'a0'\): partition_by='day': its value is a list or an object"),
        (["x", NULL], "the name of the directory for null"),
        (["x" * 300], "makes a directory's name of 304 bytes, and 255 are possible"),
        (["é" * 130], "makes a directory's name of 264 bytes"),
        (range(5), r"Row 4 .*its value 4 is one more than the 4 that a job may have.*Nothing was sent"),
    ],
)
def test_values_that_are_refused(
    tmp_path: Path, values: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_openai_batches.inference.data.partitions.MAX_PARTITIONS", 4)
    rows = [{"id": f"a{n}", "day": value} for n, value in enumerate(values)]
    prepare(tmp_path, rows, body="x", id_column="id", keep_columns=["day"])
    with pytest.raises(InvalidInputError, match=said):
        Partitions(tmp_path, "day")


def test_what_another_job_left_is_removed(tmp_path: Path) -> None:
    """Parts by other values, and parts without any; no file that is not this program's, and no other job."""
    out = tmp_path / "out"
    finished(out, ROWS[:2], **BY)
    (out / "day=tue" / f".part-00001.jsonl.{'0' * 32}.part").write_text("half of it")
    (out / "day=mon" / "part-00000-mine.parquet").write_text("not ours")
    finished(out / "day=wed", ROWS[:1])
    merge_again(tmp_path / "work", out, ROWS[3:4], **BY)
    assert not (out / "day=tue").exists()
    assert (out / "day=wed" / "part-00000.jsonl").exists()
    assert (out / "day=mon" / "part-00000-mine.parquet").exists()
    assert not (out / "day=mon" / "part-00000.jsonl").exists()
    assert (out / f"day={NULL}" / "part-00000.jsonl").exists()
    merge_again(tmp_path / "again", out, ROWS)
    assert not (out / f"day={NULL}").exists()


def merge_again(work: Path, out: Path, rows: list[dict[str, Any]], **options: Any) -> None:
    keep = options.pop("keep_columns", ())
    work.mkdir()
    job = prepare(work, rows, body="{text}", id_column="id", keep_columns=keep)
    merge(Service(work).index(job), out, **options)


def test_a_death_leaves_nothing_that_looks_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At any part; the next try writes all, and leaves nothing of the first one."""
    out = tmp_path / "out"
    finished(out, ROWS, **BY)
    write = merging._write_part
    for last in range(3):
        left = [last]

        def dying(*given: Any, left: list[int] = left) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return write(*given)

        monkeypatch.setattr(merging, "_write_part", dying)
        with pytest.raises(KeyboardInterrupt):
            merge_again(tmp_path / f"work{last}", out, ROWS, **BY)
        with pytest.raises(InvalidInputError, match="not complete: there is no manifest"):
            read_results(out)


@pytest.mark.parametrize(
    "name", ["../day=mon/part-00000.jsonl", "a/b/part-00000.jsonl", "day=mon/..", "/x", "a//b"]
)
def test_a_manifest_that_names_a_file_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    finished(tmp_path / "out", ROWS, **BY)
    parts = read_results(tmp_path / "out").manifest.parts
    change_manifest(tmp_path / "out", parts=parts)
    path = tmp_path / "out" / "manifest.json"
    path.write_text(path.read_text().replace(json.dumps(parts[0].file), json.dumps(name)))
    with pytest.raises(InvalidInputError, match="which is no part"):
        read_results(tmp_path / "out")


def test_a_part_that_is_missing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    finished(out, ROWS, **BY)
    (out / "day=tue" / "part-00000.jsonl").unlink()
    with pytest.raises(InvalidInputError, match=r"not complete: day=tue/part-00000\.jsonl is missing"):
        read_results(out)


def test_rows_with_one_request_each(tmp_path: Path) -> None:
    """Whose answers are those of rows in other directories, from files that are copies; each comes once."""
    fetched: list[str] = []

    class Copies:
        def fetch(self, names: Any) -> None:
            fetched.extend(names)

        def drop(self, names: Any) -> None:
            """They are fetched again when they are needed."""

    from airflow_provider_openai_batches.answer_store.digests import RowDigests
    from airflow_provider_openai_batches.inference.data.job import Limits
    from airflow_provider_openai_batches.inference.data.requests import requests_from
    from airflow_provider_openai_batches.inference.data.shards import write_shards

    rows = [{"text": text, "day": day} for text, day in [("a", 1), ("b", 2), ("a", 2), ("b", 1), ("a", 1)]]
    endpoint = "/v1/chat/completions"
    requests = requests_from(rows, endpoint=endpoint, body="{text}", model="m", keep_columns=["day"])
    digests = RowDigests(endpoint)
    limits = Limits(max_requests=1)
    job = write_shards(
        requests, tmp_path, endpoint=endpoint, limits=limits, digests=digests, deduplicate=True
    )
    index = Service(tmp_path).index(job, copies=Copies())
    fetched.clear()
    merged = merge(index, tmp_path / "out", partition_by="day", has_source=True)
    found = [
        [json.loads(line)["output"] for line in (tmp_path / "out" / part.file).read_bytes().splitlines()]
        for part in merged.parts
    ]
    assert found == [["a", "b", "a"], ["b", "a"]]
    assert merged.sources == {"batch": 5 - job.repeats, "live": 0, "store": 0, "duplicate": job.repeats}
    assert len(fetched) == len(set(fetched))
