"""Rows out of files."""

from __future__ import annotations

import builtins
import gzip
import tracemalloc
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upath import UPath

from airflow_provider_openai_batches.api import validation
from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.inference.data.readers import jsonl, read_rows

if TYPE_CHECKING:
    from pathlib import Path


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_json_lines(tmp_path: Path) -> None:
    """Blank lines and a byte order mark are not rows; a last line without a line end is one."""
    file = write(tmp_path / "a.jsonl", '\ufeff{"a": 1}\n\n{"a": "é\u2028"}')
    assert list(read_rows(file)) == [{"a": 1}, {"a": "é\u2028"}]


def test_csv(tmp_path: Path) -> None:
    """Quotes, line breaks in a field, a byte order mark and fields above csv's default of 128 kB."""
    file = write(tmp_path / "a.csv", f'\ufeffid,text\r\n1,"a ""b"",\nc"\r\n\r\n2,{"x" * 200_000}\r\n')
    assert list(read_rows(file)) == [{"id": "1", "text": 'a "b",\nc'}, {"id": "2", "text": "x" * 200_000}]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.csv.gz"])
def test_gzip(tmp_path: Path, name: str) -> None:
    """A file with a second suffix .gz is unpacked."""
    content = b'{"a": "1"}\n' if "jsonl" in name else b"a\n1\n"
    assert list(read_rows(write(tmp_path / name, gzip.compress(content)))) == [{"a": "1"}]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.csv", "a.csv.gz"])
def test_a_line_that_no_request_can_hold(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte of gzip can hold a gigabyte without a line end: it is refused before it fills the memory."""
    for module in (validation, jsonl):
        monkeypatch.setattr(module, "MAX_FILE_BYTES", 3_000_000)
    content = b'{"a": "1"}\n' if "jsonl" in name else b"a\n"
    content += b" " * 100_000_000
    file = write(tmp_path / name, gzip.compress(content, 1) if name.endswith(".gz") else content)
    tracemalloc.start()
    with pytest.raises(InvalidInputError, match=r"a\.\S+, line 2: longer than 3,000,000 bytes"):
        list(read_rows(file))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30_000_000


def test_parquet(tmp_path: Path) -> None:
    """Types are kept, over several batches."""
    pq.write_table(pa.table({"n": list(range(2_500)), "t": ["x"] * 2_500}), tmp_path / "a.parquet")
    rows = list(read_rows(tmp_path / "a.parquet"))
    assert len(rows) == 2_500
    assert rows[2_499] == {"n": 2_499, "t": "x"}


def test_text_files(tmp_path: Path) -> None:
    """Each text file of a directory is one row; hidden files and other formats are left out."""
    for name in ("b.md", "a.txt", "_SUCCESS", ".hidden.txt", "c.pdf"):
        write(tmp_path / name, f"\ufeffin {name}")
    assert list(read_rows(tmp_path)) == [
        {"path": "a.txt", "text": "in a.txt"},
        {"path": "b.md", "text": "in b.md"},
    ]


def test_several_paths_in_order(tmp_path: Path) -> None:
    """A list keeps its order; globs and directories are sorted; strings are paths."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("x2", "x1", "y"):
        write(folder / f"{name}.jsonl", f'{{"f": "{name}"}}\n')
    found = [row["f"] for row in read_rows([folder / "y.jsonl", str(folder / "x*.jsonl")])]
    assert found == ["y", "x1", "x2"]
    assert [row["f"] for row in read_rows(str(folder))] == ["x1", "x2", "y"]
    assert [row["f"] for row in read_rows(f"{tmp_path}/*/x?.jsonl")] == ["x1", "x2"]


def test_name_with_the_characters_of_a_pattern(tmp_path: Path) -> None:
    """A path that exists is never taken for a pattern."""
    write(tmp_path / "a[1].jsonl", '{"a": 1}\n')
    assert list(read_rows(tmp_path / "a[1].jsonl")) == [{"a": 1}]


def test_store() -> None:
    """A store of fsspec, by URI and by path: file, directory and glob."""
    store = UPath("memory:///sources")
    store.mkdir(parents=True, exist_ok=True)
    (store / "a.jsonl").write_bytes(b'{"a": 1}\n')
    (store / "b.csv.gz").write_bytes(gzip.compress(b"a\n2\n"))
    rows = [{"a": 1}, {"a": "2"}]
    assert list(read_rows(store)) == rows
    assert list(read_rows("memory:///sources/*")) == rows
    assert list(read_rows([store / "a.jsonl", "memory:///sources/b.csv.gz"])) == rows


def test_streams(tmp_path: Path) -> None:
    """Rows before a fault are read although the fault is in the same file."""
    rows = read_rows(write(tmp_path / "a.jsonl", '{"a": 1}\n' * 50_000 + "oops\n"))
    assert next(rows) == {"a": 1}
    with pytest.raises(InvalidInputError, match=r"a\.jsonl, line 50001: not JSON"):
        list(rows)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": \n', r"a\.jsonl, line 2: not JSON"),
        ("a.jsonl", '{"a": 1}\n\n[1]\n', r"a\.jsonl, line 3: a row must be a JSON object, not an array"),
        ("a.jsonl", '"text"\n', r"line 1: a row must be a JSON object, not a string"),
        ("a.jsonl", "7\n", r"line 1: a row must be a JSON object, not 7"),
        ("a.jsonl", b'{"a": "\xff"}\n', r"a\.jsonl, line 1: not JSON: .*utf-8"),
        ("a.jsonl", "[" * 100_000, r"a\.jsonl, line 1: not JSON"),
        ("a.csv", "a,b\n1,2\n3\n", r"a\.csv, line 3: 1 fields, but the header has 2"),
        ("a.csv", 'a,b\n"1\n1",2\n3,4,5\n', r"a\.csv, line 4: 3 fields, but the header has 2"),
        ("a.csv", 'a,b\n1,"2\n', r"a\.csv, line 2: unexpected end of data"),
        ("a.csv", "a,a\n1,2\n", r"a\.csv, line 1: two columns have the same name: a, a"),
        ("a.csv", b"a\nfine\n\xe9\n", r"a\.csv, line 3: not UTF-8"),
        ("a.jsonl.gz", b"no gzip", r"a\.jsonl\.gz cannot be read: Not a gzipped file"),
        ("a.csv.gz", gzip.compress(b"a\n" * 999, mtime=0)[:-12], r"a\.csv\.gz cannot be read"),
        ("a.parquet", b"PAR1 not", r"a\.parquet cannot be read"),
        ("a.txt", b"fine\n\xff", r"a\.txt, line 2: not UTF-8"),
        ("a.xlsx", b"", r"a\.xlsx has an unknown format: .*\.jsonl, .*\.parquet"),
        ("a.parquet.gz", b"", r"a\.parquet\.gz has an unknown format"),
    ],
)
def test_faulty_file(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    """The error names the file, and the line if the format has lines."""
    file = write(tmp_path / name, content)
    with pytest.raises(InvalidInputError, match=message):
        list(read_rows(file))


def test_nothing_to_read(tmp_path: Path) -> None:
    """A missing path, a glob and a directory without rows, and no path at all."""
    for paths, message in [
        (tmp_path / "a.jsonl", r"a\.jsonl does not exist"),
        (tmp_path / "*.jsonl", r"\*\.jsonl holds no file"),
        (tmp_path, "holds no file with one of the suffixes"),
        ([], "No input file is given"),
    ]:
        with pytest.raises(InvalidInputError, match=message):
            read_rows(paths)


def test_directory_that_is_named_like_a_file(tmp_path: Path) -> None:
    """An error of the disk names the file."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").mkdir()
    with pytest.raises(InvalidInputError, match=r"a\.jsonl cannot be read"):
        list(read_rows(tmp_path / "in"))


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install."""
    for name in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(InvalidInputError, match=r"install airflow-provider-openai-batches\[parquet\]"):
        list(read_rows(write(tmp_path / "a.parquet", b"")))


def test_text_does_not_need_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only Parquet imports pyarrow."""
    real = builtins.__import__

    def guarded(name: str, *arguments: Any, **options: Any) -> Any:
        assert not name.startswith("pyarrow")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", guarded)
    assert list(read_rows(write(tmp_path / "a.csv", "a\n1\n"))) == [{"a": "1"}]
