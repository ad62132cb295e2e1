"""The hook against the dev server, over sockets."""

from __future__ import annotations

import io
import json
import time
from typing import TYPE_CHECKING

import pytest
from airflow.sdk import ObjectStoragePath
from support import ENDPOINT, request_lines

from airflow_provider_openai_batches import storage
from airflow_provider_openai_batches.api.client import Download
from airflow_provider_openai_batches.exceptions import APIError, InvalidInputError, TransportError
from airflow_provider_openai_batches.hooks.openai_batches import OpenAIBatchesHook

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_openai_batches.devserver import DevServer


def completed(hook: OpenAIBatchesHook, requests: int = 3) -> str:
    """A batch that is over; the id of its output file."""
    file = hook.upload_file(io.BytesIO(request_lines(requests)), "in.jsonl")
    batch = hook.create_batch(file.id, ENDPOINT)
    deadline = time.monotonic() + 10
    while not batch.is_over and time.monotonic() < deadline:
        time.sleep(0.02)
        batch = hook.retrieve_batch(batch.id)
    assert batch.output_file_id
    return batch.output_file_id


def test_a_batch_from_upload_to_results(hook: OpenAIBatchesHook) -> None:
    """Upload, create, retrieve, download: every request has its line."""
    sink = io.BytesIO()
    size = hook.download_file(completed(hook), sink)
    assert size == len(sink.getvalue())
    assert {json.loads(line)["custom_id"] for line in sink.getvalue().splitlines()} == {"0", "1", "2"}


@pytest.mark.parametrize("form", ["path", "text", "uri", "storage", "file", "unseekable"])
def test_uploads_from_every_kind_of_source(hook: OpenAIBatchesHook, tmp_path: Path, form: str) -> None:
    """A path, a URI, an ObjectStoragePath, a file object, one that cannot seek."""
    path = tmp_path / "in.jsonl"
    path.write_bytes(request_lines())

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    source = {
        "path": path,
        "text": str(path),
        "uri": f"file://{path}",
        "storage": ObjectStoragePath(f"file://{path}"),
        "file": io.BytesIO(request_lines()),
        "unseekable": Pipe(request_lines()),
    }[form]
    file = hook.upload_file(source)
    assert file.bytes == len(request_lines())
    assert hook.retrieve_file(file.id).filename == (
        "batch.jsonl" if form in {"file", "unseekable"} else "in.jsonl"
    )


def test_an_upload_can_expire(hook: OpenAIBatchesHook) -> None:
    """The expiry goes along in the multipart form."""
    file = hook.upload_file(io.BytesIO(request_lines()), expires_after=7200)
    assert file.expires_at is not None
    assert file.created_at is not None
    assert file.expires_at - file.created_at == 7200


def test_an_upload_is_sent_again_from_its_start(hook: OpenAIBatchesHook, server: DevServer) -> None:
    """An upload that breaks half-way does not arrive as half a file."""
    server.faults([{"operation": "upload_file", "action": "drop_before", "times": 2}])
    source = io.BytesIO(b"skipped" + request_lines())
    source.seek(len(b"skipped"))
    assert hook.upload_file(source, "in.jsonl").bytes == len(request_lines())


def test_a_missing_file_and_a_text_file_are_refused(hook: OpenAIBatchesHook, server: DevServer) -> None:
    """Before anything is sent."""
    with pytest.raises(InvalidInputError, match="no-such-file"):
        hook.upload_file("/no-such-file.jsonl")
    with pytest.raises(InvalidInputError, match="binary mode"):
        hook.upload_file(io.StringIO("x"))
    assert server.stats()["requests"] == {}


@pytest.mark.parametrize("form", ["path", "uri", "memory"])
def test_downloads_to_every_kind_of_destination(hook: OpenAIBatchesHook, tmp_path: Path, form: str) -> None:
    """A path whose folders are made, a file URI, another filesystem."""
    target = {
        "path": tmp_path / "new" / "out.jsonl",
        "uri": f"file://{tmp_path}/out.jsonl",
        "memory": f"memory://{tmp_path.name}/out.jsonl",
    }[form]
    size = hook.download_file(completed(hook), target)
    content = storage.as_path(target).read_bytes()
    assert len(content) == size
    assert len(content.splitlines()) == 3


@pytest.mark.parametrize("ignores_range", [False, True])
def test_a_broken_download_goes_on(
    hook: OpenAIBatchesHook, server: DevServer, tmp_path: Path, *, ignores_range: bool
) -> None:
    """No byte is missing or doubled, even if the service ignores Range."""
    file_id = completed(hook, 2000)
    whole = io.BytesIO()
    hook.download_file(file_id, whole)
    cuts = [
        {"operation": "download_file", "action": "cut_download", "bytes": size}
        for size in (200_000, 300_000, 400_000)
    ]
    if ignores_range:
        cuts.append({"operation": "download_file", "action": "ignore_range"})
    server.faults(cuts)
    assert hook.download_file(file_id, tmp_path / "out.jsonl") == len(whole.getvalue())
    assert (tmp_path / "out.jsonl").read_bytes() == whole.getvalue()


def test_a_download_that_broke_after_its_last_byte(hook: OpenAIBatchesHook, server: DevServer) -> None:
    """No byte follows, which the service calls an error (416): all is asked for again, nothing doubled."""
    file_id = completed(hook)
    whole, sink = io.BytesIO(), io.BytesIO()
    hook.download_file(file_id, whole)
    download = Download(hook.session, file_id, sink, hook.log)
    sink.write(whole.getvalue())
    download.written = len(whole.getvalue())
    assert download.run() == len(whole.getvalue())
    assert sink.getvalue() == whole.getvalue()


def test_a_download_that_never_ends_well_leaves_nothing(
    hook: OpenAIBatchesHook, server: DevServer, tmp_path: Path
) -> None:
    """No half file under the final name, nor beside it, and the attempts are bounded."""
    file_id = completed(hook, 2000)
    cut = {"operation": "download_file", "action": "cut_download", "bytes": 200_000}
    server.faults([cut, {"operation": "download_file", "action": "drop_before", "times": None}])
    with pytest.raises(TransportError):
        hook.download_file(file_id, tmp_path / "out.jsonl")
    assert list(tmp_path.iterdir()) == []
    assert server.stats()["requests"]["download_file"] == 1 + 6


def test_an_existing_file_survives_a_failed_download(hook: OpenAIBatchesHook, tmp_path: Path) -> None:
    """The old one is replaced only by a whole new one."""
    (tmp_path / "out.jsonl").write_text("old")
    with pytest.raises(APIError, match="404"):
        hook.download_file("file-none", tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text() == "old"


def test_all_pages_are_walked(hook: OpenAIBatchesHook, server: DevServer) -> None:
    """Each batch once, newest first."""
    server.seed(250)
    ids = [batch.id for batch in hook.iter_batches()]
    assert len(ids) == len(set(ids)) == 250
    page = hook.list_batches(after=ids[9], limit=5)
    assert [batch.id for batch in page.data] == ids[10:15]
    assert page.has_more


def test_a_bad_cursor_does_not_loop(hook: OpenAIBatchesHook, server: DevServer) -> None:
    """The walk ends when a server answers with the same page again."""
    body = {
        "object": "list",
        "data": [{"id": "batch_1"}, {"id": "batch_2"}],
        "has_more": True,
        "last_id": "batch_2",
    }
    server.faults(
        [{"operation": "list_batches", "action": "status", "status": 200, "body": body, "times": None}]
    )
    assert [batch.id for batch in hook.iter_batches()] == ["batch_1", "batch_2"]
    assert server.stats()["requests"]["list_batches"] == 2


def test_cancel_of_what_is_over_is_no_error(hook: OpenAIBatchesHook) -> None:
    """The service says 409; the batch is returned as it is."""
    completed(hook)
    batch = next(hook.iter_batches())
    assert hook.cancel_batch(batch.id).status == "completed"


def test_cancel_of_what_is_not_there_is_an_error(hook: OpenAIBatchesHook) -> None:
    """With the service's own words and request id."""
    with pytest.raises(APIError, match=r"HTTP 404.*request id") as caught:
        hook.cancel_batch("batch_none")
    assert caught.value.status == 404


def test_a_deleted_file_is_gone_and_stays_no_error(hook: OpenAIBatchesHook) -> None:
    """Deleting twice is fine: the file is gone either way."""
    file = hook.upload_file(io.BytesIO(request_lines()))
    hook.delete_file(file.id)
    hook.delete_file(file.id)
    with pytest.raises(APIError, match="404"):
        hook.retrieve_file(file.id)


def test_one_session_serves_all_calls(hook: OpenAIBatchesHook) -> None:
    """Keep-alive: the second call opens no connection."""
    hook.list_batches()
    hook.list_batches()
    pools = hook.get_conn().get_adapter("http://").poolmanager.pools  # type: ignore[attr-defined]
    (pool,) = (pools[key] for key in pools.keys())  # noqa: SIM118 - no mapping
    assert (pool.num_connections, pool.num_requests) == (1, 2)


def test_a_redirect_is_not_followed(hook: OpenAIBatchesHook, server: DevServer) -> None:
    """Otherwise the key would be sent to wherever the redirect leads."""
    headers = {"Location": f"{server.base_url}/files"}
    server.faults(
        [{"operation": "list_batches", "action": "status", "status": 302, "headers": headers, "body": ""}]
    )
    with pytest.raises(APIError, match="redirects are not followed: check the connection's base URL"):
        hook.list_batches()
    assert "list_files" not in server.stats()["requests"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "Connected to http://127.0.0.1"),
        ({"password": ""}, "no API key"),
        ({"password": "wrong"}, "refuses the API key"),
        ({"host": "http://127.0.0.1:9/v1"}, "cannot be reached"),
        ({"host": "{base}/nowhere"}, "No Batch API at"),
        ({"host": "http://example.com"}, "be sent unencrypted"),
    ],
)
def test_the_connection_test_says_what_is_wrong(
    server: DevServer, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], said: str
) -> None:
    """A wrong key, an unreachable host and a wrong base URL are told apart."""
    server.settings(api_keys=["devserver-key"])
    connection = {**json.loads(server.environment["AIRFLOW_CONN_OPENAI_BATCHES_DEFAULT"]), **change}
    connection["host"] = connection["host"].format(base=server.base_url)
    monkeypatch.setenv("AIRFLOW_CONN_OPENAI_BATCHES_DEFAULT", json.dumps(connection))
    good, message = OpenAIBatchesHook().test_connection()
    assert said in message
    assert good is (not change)
    assert "wrong" not in message.replace("wrong key", "")


def test_a_page_of_html_is_a_wrong_base_url(hook: OpenAIBatchesHook, server: DevServer) -> None:
    """A 200 from something that is not a Batch API."""
    html = {"operation": "list_batches", "action": "status", "status": 200, "body": "<html>Welcome</html>"}
    server.faults([{**html, "content_type": "text/html"}])
    good, message = hook.test_connection()
    assert not good
    assert "no Batch API behind the base URL" in message


def test_a_netrc_file_does_not_replace_the_key(
    hook: OpenAIBatchesHook, server: DevServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The HTTP library would take the login for this host from that file, and send it instead of the key."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    server.settings(api_keys=["devserver-key"])
    assert hook.list_batches().data == []


def test_azure_is_spoken_to_in_its_own_way(server: DevServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The header api-key, and api-version in every query."""
    extra = {"api_type": "azure", "api_version": "2025-04-01-preview"}
    host = server.base_url.replace("/v1", "/openai")
    connection = {"conn_type": "openai_batches", "host": host, "password": "devserver-key", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_AZURE", json.dumps(connection))
    hook = OpenAIBatchesHook("azure")
    assert hook.test_connection()[0]
    assert completed(hook)


def test_time_outs_of_connect_and_read_are_separate(
    server: DevServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow answer is given up after the read time-out, and asked for again."""
    connection = json.loads(server.environment["AIRFLOW_CONN_OPENAI_BATCHES_DEFAULT"])
    connection["extra"] = {"timeout": 0.2, "connect_timeout": 5}
    monkeypatch.setenv("AIRFLOW_CONN_SLOW", json.dumps(connection))
    server.faults([{"operation": "list_batches", "action": "delay", "seconds": 1.0}])
    waits: list[float] = []
    assert OpenAIBatchesHook("slow", sleep=waits.append).list_batches().data == []
    assert len(waits) == 1


def test_the_key_shows_nowhere(server: DevServer, caplog: pytest.LogCaptureFixture) -> None:
    """Not in errors, reprs or logs, even if the service repeats it."""
    body = {"error": {"message": "Incorrect API key provided: devserver-key"}}
    server.faults([{"operation": "*", "action": "status", "status": 500, "body": body, "times": None}])
    hook = OpenAIBatchesHook(sleep=lambda _: None)
    with pytest.raises(APIError) as caught:
        hook.list_batches()
    assert "Incorrect API key provided: ***" in str(caught.value)
    assert "devserver-key" not in caplog.text + repr(caught.value) + repr(hook.config)
