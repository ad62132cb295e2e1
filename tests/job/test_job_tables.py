"""Rows out of tables in memory and Parquet files, with times that Python does not know."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.inference.data.readers import read_rows
from airflow_provider_openai_batches.inference.data.requests import requests_from

if TYPE_CHECKING:
    from pathlib import Path

pd = pytest.importorskip("pandas")
np = pytest.importorskip("numpy")
ENDPOINT = "/v1/chat/completions"
ROWS = [{"id": n, "text": f"text {n}"} for n in range(1_201)]


class Polars:
    """The methods of a Polars data frame that are used."""

    columns = ("id", "text")

    def iter_rows(self, *, named: bool = False) -> Any:
        return iter(ROWS) if named else iter([tuple(row.values()) for row in ROWS])

    def __iter__(self) -> Any:
        return iter(self.columns)


class Stream:
    """What DuckDB and others give."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> Any:
        table: Any = pa.Table.from_pylist(ROWS)
        return table.__arrow_c_stream__(requested_schema)


TABLES: dict[str, Any] = {
    "pandas": lambda: pd.DataFrame(ROWS),
    "an index": lambda: pd.DataFrame(ROWS, index=range(5, 1_206)),
    "arrow": lambda: pa.Table.from_pylist(ROWS),
    "a record batch": lambda: pa.RecordBatch.from_pylist(ROWS),
    "a reader": lambda: pa.Table.from_pylist(ROWS).to_reader(),
    "polars": Polars,
    "a stream": Stream,
    "a generator": lambda: iter(ROWS),
}


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_gives_its_rows(kind: str) -> None:
    """And not the names of its columns."""
    requests = list(
        requests_from(
            TABLES[kind](),
            endpoint=ENDPOINT,
            body="about {text}",
            model="m",
            id_column="id",
            keep_columns="id",
        )
    )
    assert [request.custom_id for request in requests] == [str(n) for n in range(1_201)]
    assert requests[3].body["messages"][0]["content"] == "about text 3"
    assert requests[3].kept == {"id": 3}
    assert type(requests[3].kept["id"]) is int


def test_a_series_is_a_column_of_prompts() -> None:
    requests = list(requests_from(pd.Series(["one", "two"]), endpoint=ENDPOINT, model="m"))
    assert [request.body["messages"][0]["content"] for request in requests] == ["one", "two"]


@pytest.mark.parametrize("kind", TABLES)
def test_several_tables(kind: str) -> None:
    """The chunks of a large file, or the outputs of mapped tasks; none is read before it is needed."""
    read = []

    def chunks() -> Any:
        for number in range(2):
            read.append(number)
            yield TABLES[kind]()

    rows = chunks() if kind != "a generator" else iter([row for _ in range(2) for row in ROWS])
    requests = requests_from(rows, endpoint=ENDPOINT, body="about {text}", model="m")
    assert not read
    texts = [request.body["messages"][0]["content"] for request in requests]
    assert texts == [f"about text {n}" for n in range(1_201)] * 2


@pytest.mark.parametrize("row", [pd.Series({"text": "a"}), [1], (1,), 7, b"a", None])
def test_a_row_that_is_none_is_named(row: Any) -> None:
    """Its type and number are in the error."""
    kind = type(row).__name__
    for body, first in ((None, "a"), ("{text}", {"text": "a"})):
        with pytest.raises(InvalidInputError, match=rf"Row 1: .* not (.|\n)*\({kind}\)"):
            list(requests_from(iter([first, row]), endpoint=ENDPOINT, body=body, model="m"))


def test_a_lazy_table_is_refused() -> None:
    class LazyFrame:
        def collect_schema(self) -> None: ...

    with pytest.raises(InvalidInputError, match=r"LazyFrame, which has no rows yet: call its \.collect"):
        requests_from(LazyFrame(), endpoint=ENDPOINT, body="{text}", model="m")  # type: ignore[arg-type]


def test_what_pandas_says_of_nothing_and_of_time() -> None:
    """NaN, NaT and NA are None; times are Python's own, without nanoseconds."""
    frame = pd.DataFrame(
        {
            "n": [1.5, None],
            "at": pd.to_datetime([1_700_000_000_123_456_789, None]),
            "i": pd.array([1, None], dtype="Int64"),
            "d": pd.to_timedelta([1_500, None]),
        }
    )
    found = [
        request.kept
        for request in requests_from(frame, endpoint=ENDPOINT, body="x", model="m", keep_columns=list(frame))
    ]
    assert found == [
        {
            "n": 1.5,
            "at": dt.datetime(2023, 11, 14, 22, 13, 20, 123456),  # noqa: DTZ001 - it has none in the frame
            "i": 1,
            "d": dt.timedelta(microseconds=1),
        },
        {"n": None, "at": None, "i": None, "d": None},
    ]
    assert type(found[0]["at"]) is dt.datetime


def test_times_of_pandas_that_clocks_or_python_do_not_know() -> None:
    """The hour that a clock repeats is the right one of the two; a time outside Python's years is text."""
    zone = "America/New_York"
    utc = pd.DatetimeIndex(["2023-11-05 05:30", "2023-11-05 06:30"], tz="UTC")
    frame = pd.DataFrame(
        {
            "at": utc.tz_convert(zone),
            "far": np.array(["20000-01-01", "-0100-01-01"], dtype="datetime64[s]"),
            "long": np.array([10**15, 1], dtype="timedelta64[s]"),
        }
    )
    asked = requests_from(frame, endpoint=ENDPOINT, body="x", model="m", keep_columns=list(frame))
    found = [request.kept for request in asked]
    assert [row["at"].isoformat() for row in found] == [
        "2023-11-05T01:30:00-04:00",
        "2023-11-05T01:30:00-05:00",
    ]
    assert [row["far"] for row in found] == ["20000-01-01 00:00:00", "-100-01-01 00:00:00"]
    assert [row["long"] for row in found] == ["11574074074 days 01:46:40", dt.timedelta(seconds=1)]


@given(st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=20), st.sampled_from([None, "UTC"]))
def test_nanoseconds_in_a_column(moments: list[int], zone: str | None) -> None:
    """Each is read, to the microsecond before it."""
    table = pa.table({"at": pa.array(moments, pa.timestamp("ns", zone)), "text": ["x"] * len(moments)})
    found = list(requests_from(table, endpoint=ENDPOINT, body="{text} {at}", model="m", keep_columns=["at"]))
    epoch = dt.datetime(1970, 1, 1, tzinfo=dt.UTC if zone else None)
    for request, moment in zip(found, moments, strict=True):
        difference = request.kept["at"] - epoch
        assert abs(difference - dt.timedelta(microseconds=moment // 1_000)) <= dt.timedelta(microseconds=1)


NS = 1_700_000_000_123_456_789
STRANGE: list[tuple[Any, Any]] = [
    (pa.array([NS], pa.timestamp("ns")), dt.datetime),
    (pa.array([NS], pa.timestamp("ns", "Europe/Berlin")), dt.datetime),
    (pa.array([1_001], pa.time64("ns")), dt.time),
    (pa.array([1_001], pa.duration("ns")), dt.timedelta),
    (pa.array([[NS]], pa.list_(pa.timestamp("ns"))), list),
    (pa.array([[NS]], pa.large_list(pa.timestamp("ns"))), list),
    (pa.array([{"at": NS}], pa.struct([("at", pa.timestamp("ns"))])), dict),
    (pa.array([[("k", NS)]], pa.map_(pa.string(), pa.timestamp("ns"))), list),
    (pa.array(["a"]).dictionary_encode(), str),
    (pa.array([2**62], pa.timestamp("us")), str),
    (pa.array([10_000_000], pa.date32()), str),
]


@pytest.mark.parametrize(("column", "kind"), STRANGE, ids=lambda value: str(getattr(value, "type", value)))
def test_a_column_that_python_does_not_know(tmp_path: Path, column: Any, kind: type) -> None:
    """Its file can be read, and its other columns are as they were."""
    pq.write_table(pa.table({"text": ["x"], "strange": column}), tmp_path / "a.parquet")
    (row,) = read_rows(tmp_path / "a.parquet")
    assert row["text"] == "x"
    assert isinstance(row["strange"], kind)
