"""
The routes of the API, without their prefix.

https://developers.openai.com/api/reference/resources/batches
https://developers.openai.com/api/reference/resources/files
"""

from http import HTTPStatus

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import ASGIApp

from airflow_provider_openai_batches.devserver import limits, params
from airflow_provider_openai_batches.devserver.control import ControlRoutes
from airflow_provider_openai_batches.devserver.errors import ApiError, error_body
from airflow_provider_openai_batches.devserver.gateway import ASKED_PATH, Gateway
from airflow_provider_openai_batches.devserver.live import LiveRoutes
from airflow_provider_openai_batches.devserver.service import BatchService
from airflow_provider_openai_batches.devserver.store import StoredFile
from airflow_provider_openai_batches.devserver.uploads import MultipartUpload

JSON = "application/json"


class LargeFileResponse(FileResponse):
    """Sends larger chunks than the default, because each chunk costs a switch between threads."""

    chunk_size = 1 << 20


class Routes:
    def __init__(self, service: BatchService) -> None:
        self._service = service

    def add_to(self, app: FastAPI) -> None:
        for method, path, endpoint in (
            ("POST", "/batches", self.create_batch),
            ("GET", "/batches", self.list_batches),
            ("GET", "/batches/{batch_id}", self.retrieve_batch),
            ("POST", "/batches/{batch_id}/cancel", self.cancel_batch),
            ("POST", "/files", self.upload_file),
            ("GET", "/files", self.list_files),
            ("GET", "/files/{file_id}", self.retrieve_file),
            ("DELETE", "/files/{file_id}", self.delete_file),
            ("GET", "/files/{file_id}/content", self.download_file),
        ):
            app.add_api_route(path, endpoint, methods=[method], response_model=None)

    async def create_batch(self, request: Request) -> Response:
        return _json(self._service.create_batch(params.read_create(await request.body())))

    async def list_batches(self, request: Request) -> Response:
        query = request.query_params
        limit = params.read_limit(query, limits.BATCHES_PER_PAGE, limits.MAX_BATCHES_PER_PAGE)
        return _json(self._service.list_batches(query.get("after"), limit))

    async def retrieve_batch(self, batch_id: str) -> Response:
        return _json(self._service.encode(self._service.find_batch(batch_id)))

    async def cancel_batch(self, batch_id: str) -> Response:
        return _json(self._service.cancel_batch(batch_id))

    async def upload_file(self, request: Request) -> Response:
        path = self._service.files.new_path()
        upload = MultipartUpload(request.headers.get("content-type", ""), path)
        try:
            async for chunk in request.stream():
                upload.feed(chunk)
            stored = self._store(upload)
        except BaseException:
            path.unlink()
            raise
        finally:
            upload.close()
        self._service.tally.bytes_uploaded += upload.bytes
        return _json(msgspec.json.encode(stored.wire))

    def _store(self, upload: MultipartUpload) -> StoredFile:
        upload.check_complete()
        filename, purpose, expiry = params.read_upload(upload.filename, upload.fields)
        with self._service.lifecycle.lock:
            return self._service.files.add(
                upload.path, filename, purpose, sha256=upload.sha256, expiry=expiry
            )

    async def list_files(self, request: Request) -> Response:
        query = request.query_params
        content = self._service.list_files(
            query.get("after"),
            params.read_limit(query, limits.FILES_PER_PAGE, limits.MAX_FILES_PER_PAGE),
            query.get("purpose"),
            newest_first=params.read_order(query),
        )
        return _json(content)

    async def retrieve_file(self, file_id: str) -> Response:
        return _json(msgspec.json.encode(self._service.files.find(file_id).wire))

    async def delete_file(self, file_id: str) -> Response:
        with self._service.lifecycle.lock:
            self._service.files.delete(self._service.files.find(file_id))
        return _json(msgspec.json.encode({"id": file_id, "object": "file", "deleted": True}))

    async def download_file(self, file_id: str) -> Response:
        path = self._service.files.find(file_id).path
        return LargeFileResponse(path, media_type="application/octet-stream", stat_result=path.stat())


def _json(content: bytes) -> Response:
    return Response(content, media_type=JSON)


async def _on_api_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return Response(msgspec.json.encode(error.body), status_code=error.status, media_type=JSON)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.scope.get(ASKED_PATH, request.url.path)
    text = f"Invalid URL ({request.method} {path}): {error.detail}"
    body = msgspec.json.encode(error_body(error.status_code, text, code="unknown_url"))
    headers = {"Allow": _methods(request)} if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED else None
    return Response(body, status_code=error.status_code, media_type=JSON, headers=headers)


def _methods(request: Request) -> str:
    """All methods of a path; each of them is a route of its own."""
    found = [route for route in request.app.routes if route.matches(request.scope)[0] != Match.NONE]
    return ", ".join(sorted({method for route in found for method in route.methods}))


async def _on_disconnect(_request: Request, _error: Exception) -> Response:
    return Response(status_code=HTTPStatus.BAD_REQUEST)  # the client is gone, so nobody reads it


async def _on_failure(_request: Request, _error: Exception) -> Response:
    """A fault of this server; its traceback is in the log."""
    body = error_body(HTTPStatus.INTERNAL_SERVER_ERROR, "The dev server failed: see its log.")
    return Response(msgspec.json.encode(body), HTTPStatus.INTERNAL_SERVER_ERROR, media_type=JSON)


def create_app(service: BatchService) -> ASGIApp:
    """The whole server: the API behind its gateway, and the control routes."""
    app = FastAPI(openapi_url=None, redirect_slashes=False)
    Routes(service).add_to(app)
    LiveRoutes(service.live).add_to(app)
    ControlRoutes(service).add_to(app)
    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(Exception, _on_failure)
    return Gateway(app, service)
