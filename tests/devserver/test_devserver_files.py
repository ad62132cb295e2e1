"""Uploads and downloads, byte by byte."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import httpx
import pytest

if TYPE_CHECKING:
    from devserver_api import Api

    from airflow_provider_openai_batches.devserver import DevServer

MULTIPART = {"content-type": "multipart/form-data; boundary=b"}


def part(name: str, value: str, filename: str = "") -> str:
    suffix = f'; filename="{filename}"' if filename else ""
    return f'--b\r\nContent-Disposition: form-data; name="{name}"{suffix}\r\n\r\n{value}\r\n'


@pytest.mark.parametrize("size", [0, 1, 65_536, 5_000_000])
def test_bytes_survive(api: Api, size: int) -> None:
    """What is uploaded is what is downloaded, even if it looks like a boundary."""
    content = (b"\r\n--b" + os.urandom(1000) + b"\r\n-") * (size // 1000) or os.urandom(size)
    file = api.upload(content)
    assert file["bytes"] == len(content)
    answer = api.http.get(f"/files/{file['id']}/content")
    assert answer.content == content
    assert answer.headers["accept-ranges"] == "bytes"
    assert int(answer.headers["content-length"]) == len(content)


@pytest.mark.parametrize(
    ("asked", "start", "end"), [("bytes=4-", 4, 10), ("bytes=2-5", 2, 6), ("bytes=-3", 7, 10)]
)
def test_ranges(api: Api, asked: str, start: int, end: int) -> None:
    """A range is answered 206, with its position and length."""
    file_id = api.upload(b"0123456789")["id"]
    answer = api.http.get(f"/files/{file_id}/content", headers={"range": asked})
    assert (answer.status_code, answer.content) == (206, b"0123456789"[start:end])
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/10"
    assert int(answer.headers["content-length"]) == end - start


def test_range_beyond_the_end(api: Api) -> None:
    """A range that starts at the end or later is answered 416."""
    file_id = api.upload(b"0123456789")["id"]
    assert api.http.get(f"/files/{file_id}/content", headers={"range": "bytes=10-"}).status_code == 416


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (part("purpose", "batch"), "file"),
        (part("purpose", "batch") + part("file", "x"), "file"),
        (part("file", "x", "f"), "purpose"),
        (part("purpose", "other") + part("file", "x", "f"), "purpose"),
        (
            part("purpose", "batch") + part("file", "x", "f") + part("expires_after[anchor]", "created_at"),
            "expires_after.seconds",
        ),
        (
            part("purpose", "batch") + part("file", "x", "f") + part("expires_after[seconds]", "3600"),
            "expires_after.anchor",
        ),
    ],
)
def test_upload_refuses(server: DevServer, api: Api, body: str, param: str) -> None:
    """A bad upload is answered 400, naming the parameter, and leaves no file behind."""
    answer = api.http.post("/files", headers=MULTIPART, content=f"{body}--b--\r\n")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert server.stats()["files"] == 0
    assert list(server.service.files.new_path().parent.iterdir()) == []


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (MULTIPART, part("purpose", "batch")),
        (MULTIPART, "junk"),
        ({"content-type": "text/plain"}, "x"),
        ({}, ""),
    ],
)
def test_broken_multipart(api: Api, headers: dict[str, str], body: str) -> None:
    """A body that is not a complete multipart document is answered 400."""
    assert api.http.post("/files", headers=headers, content=body).status_code == 400


def test_expires_after(api: Api) -> None:
    """A file expires when it was asked to. By default batch files expire after 30 days, others never."""
    fields = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    asked = api.upload(b"x", **fields)
    default = api.upload(b"x")
    assert asked["expires_at"] - asked["created_at"] == 3600
    assert default["expires_at"] - default["created_at"] == 30 * 86_400
    assert "expires_at" not in api.upload(b"x", purpose="user_data")


def test_filename_of_any_kind(api: Api) -> None:
    """A file name may have quotes and letters that are not ASCII."""
    name = 'a "b" ü.jsonl'
    answer = api.http.post("/files", data={"purpose": "batch"}, files={"file": (name, b"x")})
    assert answer.json()["filename"].replace("%22", '"') == name


def test_upload_that_breaks_off(server: DevServer, api: Api) -> None:
    """A connection that dies during an upload leaves nothing behind, and the server goes on."""
    host, port = httpx.URL(server.base_url).host, httpx.URL(server.base_url).port
    with socket.create_connection((host, port)) as connection:
        head = "POST /v1/files HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer k\r\n"
        head += "Content-Length: 1000\r\n"
        text = head + "Content-Type: multipart/form-data; boundary=b\r\n\r\n" + part("file", "x" * 100, "f")
        connection.sendall(text.encode())
    assert api.upload(b"x")["bytes"] == 1
    assert server.stats()["files"] == 1


def test_deleting_the_input_of_a_running_batch(server: DevServer, api: Api) -> None:
    """Clients no longer find a deleted input file, but the batch that reads it still gets its results."""
    server.settings(freeze=True)
    batch = api.create([api.line()])
    api.http.delete(f"/files/{batch['input_file_id']}").raise_for_status()
    assert api.http.get(f"/files/{batch['input_file_id']}/content").status_code == 404
    path = next(server.service.files.new_path().parent.iterdir())
    server.settings(freeze=False)
    assert api.wait(batch["id"])["request_counts"]["completed"] == 1
    assert not path.exists()
