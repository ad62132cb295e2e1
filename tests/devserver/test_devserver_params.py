"""Parameters are checked as strictly as the service checks them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from devserver_api import Api

    from airflow_provider_openai_batches.devserver import DevServer


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"endpoint": "/v1/other"}, "endpoint"),
        ({"endpoint": None}, "endpoint"),
        ({"endpoint": 1}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"input_file_id": "file-none"}, "input_file_id"),
        ({"input_file_id": None}, "input_file_id"),
        ({"metadata": []}, "metadata"),
        ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
        ({"metadata": {"k" * 65: ""}}, "metadata"),
        ({"metadata": {"k": "v" * 513}}, "metadata.k"),
        ({"metadata": {"k": 1}}, "metadata.k"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 3599}}, "output_expires_after.seconds"),
        (
            {"output_expires_after": {"anchor": "created_at", "seconds": 2592001}},
            "output_expires_after.seconds",
        ),
        ({"output_expires_after": {"anchor": "created_at", "seconds": True}}, "output_expires_after.seconds"),
        ({"output_expires_after": {"anchor": "now", "seconds": 3600}}, "output_expires_after.anchor"),
        ({"output_expires_after": 3600}, "output_expires_after"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_create_refuses(server: DevServer, api: Api, change: dict[str, Any], param: str) -> None:
    """A bad parameter of create is answered 400, naming it, and nothing is stored."""
    answer = api.http.post("/batches", json=api.params(api.upload(b"{}")["id"]) | change)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert server.stats()["batches"]["stored"] == 0


DEEP = b"[" * 100_000


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", DEEP], ids=range(5))
def test_create_needs_an_object(api: Api, body: bytes) -> None:
    """A body that is not a JSON object is answered 400, as on the control routes."""
    assert api.http.post("/batches", content=body).status_code == 400
    control = str(api.http.base_url).replace("/v1", "/_dev")
    assert api.http.post(f"{control}settings", content=body or b"[").status_code == 400


def test_a_line_that_is_nested_too_deep(api: Api) -> None:
    """The batch fails with an error of its line; it does not stay in validation."""
    batch = api.run(DEEP)
    assert (batch["status"], batch["errors"]["data"][0]["code"]) == ("failed", "invalid_json_line")


def test_create_takes_the_limits(api: Api) -> None:
    """The largest metadata and both ends of the expiry are accepted."""
    file_id = api.upload([api.line()])["id"]
    metadata = {f"{number:064}": "v" * 512 for number in range(16)}
    for seconds in (3600, 2592000):
        expiry = {"anchor": "created_at", "seconds": seconds}
        body = api.params(file_id, metadata=metadata, output_expires_after=expiry)
        batch = api.wait(api.http.post("/batches", json=body).raise_for_status().json()["id"])
        output = api.http.get(f"/files/{batch['output_file_id']}").json()
        assert output["expires_at"] - output["created_at"] == seconds
        assert output["purpose"] == "batch_output"


def test_create_needs_a_batch_file(api: Api) -> None:
    """A file with another purpose cannot be a batch's input."""
    answer = api.http.post("/batches", json=api.params(api.upload(b"{}", purpose="vision")["id"]))
    assert answer.json()["error"]["param"] == "input_file_id"


@pytest.mark.parametrize("path", ["/batches", "/files"])
@pytest.mark.parametrize("limit", ["0", "-1", "x", "", "10001", "٣", "²", "9" * 5_000])
def test_limit(api: Api, path: str, limit: str) -> None:
    """A limit out of range is answered 400."""
    answer = api.http.get(path, params={"limit": limit})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "limit")


def test_list_batches_pages(api: Api) -> None:
    """Pages have the newest first and no gaps between them; an unknown cursor is answered 400."""
    ids = [api.create([api.line()])["id"] for _ in range(5)]
    assert api.http.get("/batches", params={"limit": 101}).status_code == 400
    first = api.http.get("/batches", params={"limit": 2}).json()
    second = api.http.get("/batches", params={"limit": 3, "after": first["last_id"]}).json()
    assert [batch["id"] for batch in first["data"] + second["data"]] == ids[::-1]
    assert (first["has_more"], second["has_more"]) == (True, False)
    answer = api.http.get("/batches", params={"after": "batch_unknown"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "after")
    empty = api.http.get("/batches", params={"after": ids[0]}).json()
    assert (empty["data"], empty["has_more"], empty["first_id"]) == ([], False, None)


def test_list_files(api: Api) -> None:
    """Files are listed in either order, by purpose and in pages; deleted ones are left out."""
    ids = [api.upload(b"x", purpose=purpose)["id"] for purpose in ("batch", "vision", "batch", "batch")]
    api.http.delete(f"/files/{ids[2]}").raise_for_status()

    def listed(**params: Any) -> list[str]:
        return [file["id"] for file in api.http.get("/files", params=params).json()["data"]]

    assert listed() == [ids[3], ids[1], ids[0]]
    assert listed(order="asc", limit=2) == [ids[0], ids[1]]
    assert listed(order="asc", after=ids[0]) == [ids[1], ids[3]]
    assert listed(purpose="vision") == [ids[1]]
    assert api.http.get("/files", params={"order": "up"}).status_code == 400


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "purpose"),
        ({"purpose": "Batch"}, "purpose"),
        ({"purpose": "batch", "expires_after": "[" * 60_000}, "expires_after"),
        (
            {
                "purpose": "batch",
                "expires_after[anchor]": "created_at",
                "expires_after[seconds]": "3" * 5_000,
            },
            "expires_after.seconds",
        ),
    ],
)
def test_upload_refuses(api: Api, fields: dict[str, str], param: str) -> None:
    answer = api.http.post("/files", data=fields, files={"file": ("f", b"x")})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def form(*disposition: str) -> bytes:
    parts = (f"--b\r\nContent-Disposition: form-data; {one}\r\n\r\nbatch\r\n" for one in disposition)
    return "".join((*parts, "--b--\r\n")).encode()


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("", form('name="purpose"', 'name="file"; filename="f"')),
        ("application/json", b"{}"),
        ("multipart/form-data", form('name="purpose"')),
        ("multipart/form-data; boundary=" + "b" * 300, b"x"),
        ("multipart/form-data; boundary*=utf-8''%e2%82%ac", b"x"),
        ("multipart/form-data; boundary=b", b"x"),
        ("multipart/form-data; boundary=b", b""),
        ("multipart/form-data; boundary=b", form('name="purpose"', 'name="file"; filename="f"')[:-4]),
        ("multipart/form-data; boundary=b", form('name="purpose"', 'name="file"')),
        ("multipart/form-data; boundary=b", form('name="purpose"', *['name="file"; filename="f"'] * 2)),
    ],
    ids=range(10),
)
def test_a_form_that_cannot_be_read(server: DevServer, api: Api, content_type: str, body: bytes) -> None:
    """It is answered 400 in the usual shape, and leaves no file behind."""
    answer = api.http.post("/files", content=body, headers={"content-type": content_type})
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    assert server.stats()["files"] == 0


@pytest.mark.parametrize(
    "content_type", ["multipart/form-data; boundary=b", 'Multipart/Form-Data;Boundary="b"']
)
def test_a_form_in_other_spellings(api: Api, content_type: str) -> None:
    """As the standards allow them."""
    body = form("name=file; filename*=UTF-8''%E2%82%AC.txt", "name=purpose")
    answer = api.http.post("/files", content=body, headers={"content-type": content_type})
    assert (answer.status_code, answer.json()["filename"]) == (200, "€.txt"), answer.text
