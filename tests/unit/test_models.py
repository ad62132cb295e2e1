"""What the wire carries is read tolerantly."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_openai_batches.api.models import Batch, BatchPage, File, FilePage, read
from airflow_provider_openai_batches.api.validation import result_file_name
from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.polling import progress

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
BATCH_FIELDS = [field.encode_name for field in msgspec.structs.fields(Batch) if field.name != "id"]


def test_a_full_batch_is_read_field_by_field() -> None:
    """Nested counts, usage and errors come through."""
    batch = read(
        b'{"id":"b","object":"batch","status":"failed","created_at":1,"errors":{"object":"list","data":'
        b'[{"code":"c","line":3,"message":"m","param":null}]},"request_counts":{"total":3,"completed":1,"failed":2},'
        b'"usage":{"input_tokens":5,"input_tokens_details":{"cached_tokens":2},"output_tokens":7,'
        b'"output_tokens_details":{"reasoning_tokens":1},"total_tokens":12},"metadata":{"a":"b"},"new_field":[1]}',
        Batch,
    )
    assert str(batch.error_items[0]) == "c, line 3: m"
    assert (batch.counts.total, batch.counts.failed) == (3, 2)
    assert batch.usage is not None
    assert batch.usage.input_tokens_details is not None
    assert batch.usage.input_tokens_details.cached_tokens == 2
    assert batch.is_over


@pytest.mark.parametrize("field", ["output_file_id", "error_file_id", "input_file_id"])
def test_an_empty_file_id_is_no_file(field: str) -> None:
    """Some servers send an empty text where OpenAI sends null."""
    assert getattr(read(f'{{"id":"b","{field}":""}}'.encode(), Batch), field) is None


@given(st.dictionaries(st.sampled_from(BATCH_FIELDS), JSON))
@example({"created_at": "nan", "expires_at": "inf"})
def test_no_value_of_any_field_makes_a_batch_unreadable(document: dict[str, object]) -> None:
    """A field of the wrong type is left out, the rest stays."""
    batch = read(msgspec.json.encode({**document, "id": "batch_1"}), Batch)
    assert batch.id == "batch_1"
    assert isinstance(batch.status, str)
    msgspec.json.encode(batch.to_dict())


@given(st.lists(JSON))
def test_a_page_keeps_the_batches_that_can_be_read(others: list[object]) -> None:
    """One broken entry does not hide the others."""
    page = read(
        msgspec.json.encode({"data": [*others, {"id": "b", "created_at": "soon"}], "has_more": None}),
        BatchPage,
    )
    assert page.data[-1].id == "b"
    assert page.data[-1].created_at is None
    assert page.has_more is False


@given(st.lists(JSON | st.fixed_dictionaries({"id": JSON})))
def test_a_page_of_files_keeps_those_that_can_be_read(others: list[object]) -> None:
    """As for batches: an odd object hides no other."""
    odd = [item for item in others if not (isinstance(item, dict) and isinstance(item.get("id"), str))]
    page = read(msgspec.json.encode({"data": [*odd, {"id": "f", "bytes": "many"}], "has_more": 1}), FilePage)
    assert [(file.id, file.bytes) for file in page.data] == [("f", None)]


@pytest.mark.parametrize(
    "text", [b"[]", b"3", b"null", b"{}", b'{"id":null}', b'{"id":7}', b"<html>", b"", b'{"id":"b']
)
def test_what_is_no_batch_is_an_error(text: bytes) -> None:
    """An object without an id is of no use."""
    with pytest.raises(msgspec.MsgspecError):
        read(text, Batch)


def test_numbers_as_text_and_fractions_are_understood() -> None:
    """Compatible servers send times as text or with a fraction."""
    batch = read(b'{"id":"b","created_at":"1711","expires_at":1712.6}', Batch)
    assert (batch.created_at, batch.expires_at) == (1711, 1712)


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("COMPLETED", "completed"),
        ("Completed", "completed"),
        ("succeeded", "completed"),
        ("CANCELED", "cancelled"),
        ("canceling", "cancelling"),
        ("FAILED", "failed"),
        ("Expired", "expired"),
        ("PROGRESS", "in_progress"),
        ("IN_PROGRESS", "in_progress"),
        ("In Progress", "in_progress"),
        ("in-progress", "in_progress"),
        ("VALIDATING", "validating"),
        ("scheduling", "scheduling"),
    ],
)
def test_statuses_in_other_spellings(word: str, status: str) -> None:
    """In a batch, and in a page of batches that has odd fields."""
    assert read(msgspec.json.encode({"id": "b", "status": word}), Batch).status == status
    page = {"data": [{"id": "b", "status": word, "created_at": []}]}
    assert read(msgspec.json.encode(page), BatchPage).data[0].status == status
    assert Batch("b", word).is_over is (status in {"completed", "cancelled", "failed", "expired"})


@given(st.sampled_from(["completed", "failed", "expired", "cancelled", "in_progress"]), st.data())
def test_no_mixture_of_capitals_hides_an_end(status: str, data: st.DataObject) -> None:
    word = "".join(data.draw(st.sampled_from([sign, sign.upper()])) for sign in status)
    assert Batch("b", word).status == status


@pytest.mark.parametrize("none", [0, -62_135_596_800, "0001-01-01T00:00:00Z", -1, 10**30, 1e300])
def test_what_is_no_time_is_missing(none: Any) -> None:
    """Some servers send the year 1 for an event that has not been: it must not count as a batch's end."""
    document = {"id": "b", "status": "failed", "created_at": 5, "completed_at": none, "failed_at": 9}
    batch = read(msgspec.json.encode(document), Batch)
    assert (batch.created_at, batch.completed_at, batch.failed_at, batch.ended_at) == (5, None, 9, None)


@pytest.mark.parametrize(("sent", "read_as"), [(-1, 0), (10**400, 10**15)], ids=["negative", "huge"])
def test_odd_counts_end_no_wait(sent: int, read_as: int) -> None:
    """Some servers send -1 for "not known"; the line of a wait divided by zero, which failed the task."""
    document = {"id": "b", "status": "in_progress", "in_progress_at": 5}
    counts = f'"request_counts":{{"total":{sent},"completed":{sent},"failed":{sent}}}'
    batch = read(f"{msgspec.json.encode(document).decode()[:-1]},{counts}}}", Batch)
    assert msgspec.structs.astuple(batch.counts) == (read_as,) * 3
    before = progress.JobProgress(completed=2, batches=3)
    assert "of 3 batches done" in progress.several([progress.Seen.of(batch, 9.0)] * 2, before, 10.0)


TIMES = st.datetimes(datetime(2001, 1, 1), datetime(2100, 1, 1)).map(  # noqa: DTZ001 - the zone is added
    lambda time: time.replace(microsecond=0, tzinfo=UTC)
)


@pytest.mark.parametrize("kind", [Batch, File])
@given(time=TIMES, odd=st.booleans())
def test_times_in_every_form_are_seconds(kind: type[Batch | File], time: datetime, *, odd: bool) -> None:
    """Seconds, parts of seconds and ISO texts, also beside a field that cannot be read."""
    seconds = int(time.timestamp())
    forms = [seconds, str(seconds), seconds + 0.25, f"{seconds}.5", time.isoformat()]
    forms += [time.isoformat().replace("+00:00", "Z"), time.isoformat(" ").removesuffix("+00:00")]
    forms += [time.astimezone(timezone(timedelta(hours=-7))).isoformat()]
    forms += [seconds * unit + unit // 2 for unit in (10**3, 10**6, 10**9)]
    for form in forms:
        document = {"id": "x", "created_at": form, "expires_at": form} | ({"object": []} if odd else {})
        found = read(msgspec.json.encode(document), kind)
        assert (found.created_at, found.expires_at) == (seconds, seconds), form


@given(st.dictionaries(st.text(max_size=8), st.text(max_size=8) | JSON, max_size=6))
def test_one_odd_value_of_metadata_does_not_hide_the_other_pairs(pairs: dict[str, object]) -> None:
    """A batch is found again by one of them."""
    document = {"id": "b", "metadata": {**pairs, "airflow_key": "k-1", "n": 3, "none": None, "list": [1]}}
    for batch in (
        read(msgspec.json.encode(document), Batch),
        read(msgspec.json.encode({"data": [document]}), BatchPage).data[0],
    ):
        assert batch.metadata is not None
        assert (batch.metadata["airflow_key"], batch.metadata["n"]) == ("k-1", "3")
        assert "none" not in batch.metadata
        own = {"airflow_key", "n", "none", "list"}
        texts = {key: value for key, value in pairs.items() if isinstance(value, str) and key not in own}
        assert {**texts, **batch.metadata} == batch.metadata


def test_a_file_is_read() -> None:
    """Size and name come through, an unknown purpose too."""
    file = read(b'{"id":"f","bytes":12,"filename":"x.jsonl","purpose":null}', File)
    assert (file.id, file.bytes, file.filename, file.purpose) == ("f", 12, "x.jsonl", None)


@pytest.mark.parametrize("status", ["validating", "in_progress", "finalizing", "unknown"])
def test_what_runs_can_be_cancelled(status: str) -> None:
    """A status that is not known is taken as running."""
    assert Batch(id="b", status=status).can_be_cancelled


@pytest.mark.parametrize("status", ["cancelling", "cancelled", "completed", "failed", "expired"])
def test_what_ends_cannot_be_cancelled(status: str) -> None:
    """It is over, or somebody has cancelled it."""
    assert not Batch(id="b", status=status).can_be_cancelled


def test_the_names_of_a_batchs_files() -> None:
    """The operator and the command line call them the same."""
    assert result_file_name("batch_1", "output") == "batch_1-output.jsonl"
    assert result_file_name("batch_1", "errors") == "batch_1-errors.jsonl"


@pytest.mark.parametrize("batch_id", ["", ".", "..", "../b", "a/b", "a\\b", "a\0b", "a\nb"])
def test_an_id_that_cannot_be_a_files_name(batch_id: str) -> None:
    """The service chooses ids; none of them leads out of the user's directory."""
    with pytest.raises(InvalidInputError, match="batch id"):
        result_file_name(batch_id, "output")
