"""Requests are built as the contract says, and failures are understood."""

from __future__ import annotations

from email.utils import formatdate
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_openai_batches.api import protocol
from airflow_provider_openai_batches.api.config import ClientConfig
from airflow_provider_openai_batches.api.endpoints import SPECS
from airflow_provider_openai_batches.api.protocol import HttpReply
from airflow_provider_openai_batches.api.retry import may_repeat
from airflow_provider_openai_batches.exceptions import (
    APIError,
    InvalidInputError,
    OpenAIBatchesError,
    TransportError,
)

OPERATIONS = [
    "create_batch",
    "retrieve_batch",
    "list_batches",
    "cancel_batch",
    "upload_file",
    "retrieve_file",
    "list_files",
    "delete_file",
    "download_file",
]

CONFIG = ClientConfig(base_url="http://127.0.0.1/v1", api_key="sk-secret", headers={})


def failure(status: int, body: bytes, headers: dict[str, str] | None = None) -> APIError:
    error = protocol.failure(HttpReply(status, headers or {}, body), CONFIG, now=1000.0)
    assert error is not None
    return error


@pytest.mark.parametrize(
    "value", ["", " ", None, "None", 7, "a/b", "a\\b", ".", "..", "a b", "a\n", "a\x00", "a\u2028b"]
)
def test_an_id_that_is_none_is_refused(value: Any) -> None:
    """Nothing is sent for an id that is empty or would lead elsewhere."""
    for build in (
        protocol.retrieve_batch,
        protocol.cancel_batch,
        protocol.retrieve_file,
        protocol.delete_file,
    ):
        with pytest.raises(InvalidInputError, match=r"_id is .*id"):
            build(value)


@given(st.text(min_size=1))
def test_an_id_cannot_change_the_path(value: str) -> None:
    """Whatever passes stays one segment of the path."""
    try:
        path = protocol.retrieve_batch(value).path
    except InvalidInputError:
        return
    assert path.startswith("/batches/")
    assert not set(path[len("/batches/") :]) & set("/?#\\ ")


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        None,
        "/v2/x",
        "v1/responses",
        "/v1/",
        "/v1",
        "/v1/../x",
        "/v1/a?b",
        "https://x/v1/a",
        "/rerank",
        "/",
        "responses",
        "/responses/",
        "//responses",
    ],
)
def test_an_endpoint_that_is_no_path_is_refused(endpoint: Any) -> None:
    """The message shows what one looks like."""
    with pytest.raises(InvalidInputError, match=r"endpoint is .*'/v1/responses'"):
        protocol.create_batch("file-1", endpoint)


@pytest.mark.parametrize("path", SPECS)
def test_azures_endpoints_need_no_version(path: str) -> None:
    """As its older samples have them."""
    assert f'"endpoint":"/{path}"'.encode() in (protocol.create_batch("file-1", f"/{path}").json or b"")


def test_an_unknown_well_formed_endpoint_passes() -> None:
    """Compatible servers have more endpoints than OpenAI."""
    assert b"/v1/rerank" in (protocol.create_batch("file-1", "/v1/rerank").json or b"")


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({str(number): "x" for number in range(17)}, "17 pairs"),
        ({"k" * 65: "x"}, "65 characters"),
        ({"": "x"}, "0 characters"),
        ({"k": "v" * 513}, "513 characters"),
        ({"k": 3}, "must be strings"),
        ({3: "v"}, "must be strings"),
        (["k"], "must be a dict"),
    ],
)
def test_metadata_over_the_limits_is_refused(metadata: Any, said: str) -> None:
    """The message names the limit that was broken."""
    with pytest.raises(InvalidInputError, match=said):
        protocol.create_batch("file-1", "/v1/responses", metadata=metadata)


@pytest.mark.parametrize(
    "value", [3599, 2_592_001, True, "1d", {"anchor": "x", "seconds": 3600}, {"seconds": 3600}]
)
def test_an_expiry_out_of_range_is_refused(value: Any) -> None:
    """An hour to thirty days."""
    with pytest.raises(InvalidInputError, match="output_expires_after"):
        protocol.create_batch("file-1", "/v1/responses", output_expires_after=value)


@pytest.mark.parametrize("limit", [0, 101, -1, True, "20", 1.0])
def test_a_limit_out_of_range_is_refused(limit: Any) -> None:
    """1 to 100."""
    with pytest.raises(InvalidInputError, match="limit is"):
        protocol.list_batches(limit=limit)


@pytest.mark.parametrize(
    ("body", "message", "code"),
    [
        (b'{"error":{"message":"no","type":"t","code":"c","param":"p"}}', "no", "c"),
        (b'{"error":{"message":"no","type":"t","code":null}}', "no", "t"),
        (b'{"error":"plain"}', "plain", None),
        (b'{"detail":"not found"}', "not found", None),
        (b'{"detail":[{"loc":["body"],"msg":"bad"}]}', '[{"loc":["body"],"msg":"bad"}]', None),
        (b'{"message":"gateway"}', "gateway", None),
        (
            b"<html><head><style>x{}</style></head><body><h1>502 Bad Gateway</h1></body></html>",
            "502 Bad Gateway",
            None,
        ),
        (b"", "no message", None),
        (b"\xff\xfe", "\ufffd\ufffd", None),
        (b"[1]", "[1]", None),
        (b'{"error":{"message":{"a":1},"code":[1],"param":{}}}', "{'a': 1}", "[1]"),
    ],
)
def test_error_bodies_of_every_shape_are_read(body: bytes, message: str, code: str | None) -> None:
    """OpenAI's shape, those of compatible servers, and a proxy's page."""
    error = failure(502, body, {"x-request-id": "req_1"})
    assert (error.message, error.code, error.request_id, error.status) == (message, code, "req_1", 502)
    assert "HTTP 502" in str(error)
    assert "req_1" in str(error)


@given(st.binary())
def test_no_body_breaks_the_reading_of_an_error(body: bytes) -> None:
    """Any bytes make an APIError."""
    assert failure(500, body).status == 500


SECRET = "sk-secret"


@pytest.mark.parametrize("field", ["message", "code", "type", "param"])
def test_a_key_that_the_service_repeats_is_redacted(field: str) -> None:
    """Some servers echo the key that they refuse, in whatever field."""
    error = failure(401, msgspec.json.encode({"error": {field: f"wrong {SECRET}"}}), {"x-request-id": SECRET})
    shown = [str(error), error.message, error.code, error.param, error.request_id, repr(error)]
    assert SECRET not in " ".join(map(str, shown))
    assert f"{field if field != 'type' else 'code'} wrong ***" in str(error) or "wrong ***" in error.message


@pytest.mark.parametrize(
    "body",
    [
        f"<p>{'x ' * 95}wrong {SECRET}</p>",
        f'{{"x": "{"x" * 485}{SECRET}"}}',
        f'{{"error": {{"x": "{"x" * 485}{SECRET}"}}}}',
        f'["{SECRET}"]',
    ],
)
@pytest.mark.parametrize("status", [200, 500])
def test_a_key_is_redacted_before_an_answer_is_shortened(body: str, status: int) -> None:
    """Half a key is a key's half too many."""
    request = protocol.retrieve_batch("batch_1")
    reply = protocol.reply(request, CONFIG, status, {}, body.encode())
    if status == 200:
        with pytest.raises(OpenAIBatchesError) as caught:
            protocol.read_batch(reply)
        assert "sk-" not in str(caught.value)
    else:
        assert "sk-" not in str(protocol.failure(reply, CONFIG, 0.0))


def test_the_errors_of_a_batch_are_redacted() -> None:
    """They become the error of a task."""
    items = [{"code": SECRET, "message": f"no {SECRET}", "param": SECRET, "line": 3}, {"code": "c"}]
    document = {"id": "batch_1", "status": "failed", "errors": {"data": items}}
    reply = protocol.reply(protocol.retrieve_batch("batch_1"), CONFIG, 200, {}, msgspec.json.encode(document))
    page = protocol.reply(protocol.list_batches(), CONFIG, 200, {}, msgspec.json.encode({"data": [document]}))
    for batch in (protocol.read_batch(reply), *protocol.read_page(page).data):
        assert list(map(str, batch.error_items)) == ["***, line 3, param ***: no ***", "c: no message"]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("3", 3.0),
        ("0.5", 0.5),
        ("-1", 0.0),
        (formatdate(1060, usegmt=True), 60.0),
        ("soon", None),
        ("Fri, 31 Dec 99999 23:59:59 GMT", None),
        (f"Fri, 31 Dec {'9' * 30} 23:59:59 GMT", None),
        ("9" * 400, None),
        ("", None),
        (None, None),
        ("nan", None),
        ("inf", None),
    ],
)
def test_retry_after_is_read(value: str | None, seconds: float | None) -> None:
    """In seconds and as a date; nonsense is ignored."""
    assert protocol.retry_after(value, now=1000.0) == seconds


@given(
    st.text()
    | st.from_regex(
        r"(Mon|Fri), [0-9]{1,30} (Jan|Dec) [0-9]{1,30} [0-9]{1,20}:[0-9]{2}:[0-9]{2} (GMT|[+-][0-9]{1,12})",
        fullmatch=True,
    )
)
def test_no_retry_after_is_an_error(value: str) -> None:
    """Whatever a host sends there."""
    seconds = protocol.retry_after(value, now=1000.0)
    assert seconds is None or seconds >= 0


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504])
def test_which_status_may_be_repeated(operation: str, status: int) -> None:
    """The table of the retry rules, for every operation."""
    create = operation == "create_batch"
    expected = (
        status == 429
        or (status == 409 and operation == "upload_file")
        or (status in {408, 500, 502, 503, 504} and not create)
    )
    assert may_repeat(operation, APIError("x", status=status)) is expected


@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_money_is_never_repeated(operation: str) -> None:
    """Waiting does not put money into an account."""
    assert not may_repeat(operation, APIError("x", status=429, code="insufficient_quota"))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_create_is_repeated_only_if_it_never_left(operation: str) -> None:
    """A lost answer may hide a stored batch."""
    assert may_repeat(operation, TransportError("x", sent=False))
    assert may_repeat(operation, TransportError("x", sent=True)) is (operation != "create_batch")


def test_a_page_instead_of_json_is_no_answer() -> None:
    """A 200 with a proxy's page says nothing about the batch."""
    with pytest.raises(TransportError, match=r"not a Batch .*Sign in.*base URL"):
        protocol.read_batch(HttpReply(200, {}, b"<html>Sign in</html>"))


ODD_IDS = ["../evil", "/etc/evil", "a\\b", "..", ".", " ", "", "a b", "a\0", "a\nb", "None"]


@pytest.mark.parametrize("odd", ODD_IDS)
@pytest.mark.parametrize("reader", [protocol.read_batch, protocol.read_file])
def test_an_id_that_leads_elsewhere_is_no_answer(reader: Any, odd: str) -> None:
    """It becomes a path at the service, and the name of a file."""
    with pytest.raises(TransportError, match=r"the answer is not a (Batch|File)"):
        reader(HttpReply(200, {}, msgspec.json.encode({"id": odd})))


@pytest.mark.parametrize("reader", [protocol.read_page, protocol.read_file_page])
@pytest.mark.parametrize("body", [b"{}", b'{"status":"ok"}', b'{"object":"list","has_more":false}'])
def test_an_object_without_data_is_no_empty_list(reader: Any, body: bytes) -> None:
    """A gateway may answer so in passing. What is not in the list would be created, and paid, once more."""
    with pytest.raises(TransportError, match="it has no data"):
        reader(HttpReply(200, {}, body))
    assert reader(HttpReply(200, {}, b'{"data":null}')).data == []


@pytest.mark.parametrize("reader", [protocol.read_page, protocol.read_file_page])
def test_an_id_that_leads_elsewhere_does_not_hide_the_others(reader: Any) -> None:
    body = msgspec.json.encode({"data": [{"id": odd} for odd in [*ODD_IDS, "good_1"]], "has_more": True})
    assert [item.id for item in reader(HttpReply(200, {}, body)).data] == ["good_1"]


@pytest.mark.parametrize(
    ("build", "reader"),
    [
        (protocol.retrieve_batch, protocol.read_batch),
        (protocol.cancel_batch, protocol.read_batch),
        (protocol.retrieve_file, protocol.read_file),
    ],
)
def test_an_answer_is_of_what_was_asked_for(build: Any, reader: Any) -> None:
    """Another batch's end must not pass for one's own."""
    request = build("id_1")
    assert reader(protocol.reply(request, CONFIG, 200, {}, b'{"id":"id_1"}')).id == "id_1"
    with pytest.raises(TransportError, match="asked for 'id_1'"):
        reader(protocol.reply(request, CONFIG, 200, {}, b'{"id":"id_2"}'))


READERS = [protocol.read_batch, protocol.read_page, protocol.read_file, protocol.read_file_page]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"error":{"message":"slow down","code":429}}', 429),
        (b'{"error":{"message":"x"},"status":"503"}', 503),
        (b'{"error":{"message":"x","status_code":404}}', 404),
        (b'{"error":{"message":"No such batch: batch_1"}}', 404),
        (b'{"error":"Batch not found"}', 404),
        (b'{"error":{"code":"invalid_api_key","message":"x"}}', 401),
        (b'{"error":{"code":"rate_limit_exceeded","message":"x"}}', 429),
        (b'{"error":{"type":"server_error"}}', 503),
        (b'{"id":null,"error":{"message":"who knows"},"data":null}', 400),
    ],
)
def test_an_error_that_comes_as_a_success_is_an_error(reader: Any, body: bytes, status: int) -> None:
    """A list that is an error must not look empty: what is searched there would be paid again."""
    with pytest.raises(APIError, match=r"in an answer with HTTP 200") as caught:
        reader(HttpReply(200, {}, body))
    assert caught.value.status == status


@pytest.mark.parametrize("error", ["null", "{}", '{"message": "two rows failed"}', '"x"'])
def test_a_batch_with_an_error_of_its_own_is_a_batch(error: str) -> None:
    """Some servers have that field in each batch, and in each page."""
    body = f'{{"id":"batch_1","status":"failed","error":{error}}}'
    assert protocol.read_batch(HttpReply(200, {}, body.encode())).status == "failed"
    page = f'{{"data":[{body}],"error":{error}}}'
    assert len(protocol.read_page(HttpReply(200, {}, page.encode())).data) == 1


@given(st.text(), st.dictionaries(st.from_regex(r"[a-z_]+", fullmatch=True), st.text("ab", max_size=3)))
def test_a_multipart_head_cannot_be_broken_out_of(filename: str, fields: dict[str, str]) -> None:
    """Whatever a file is called, there is one part for each field and one for the file."""
    try:
        head, tail = protocol.multipart(fields, filename, "BOUNDARY")
    except UnicodeEncodeError:
        return
    assert head.count(b"\r\n\r\n") == len(fields) + 1
    assert tail == b"\r\n--BOUNDARY--\r\n"
