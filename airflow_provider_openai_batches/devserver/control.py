"""The control routes, for tests. The docstring of the package describes them."""

import asyncio
from functools import partial
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response

from airflow_provider_openai_batches.devserver.errors import NOT_JSON, ApiError
from airflow_provider_openai_batches.devserver.service import BatchService


class ControlRoutes:
    def __init__(self, service: BatchService) -> None:
        self._service = service

    def add_to(self, app: FastAPI) -> None:
        for method, path, endpoint in (
            ("POST", "/faults", self.faults),
            ("DELETE", "/faults", self.clear_faults),
            ("POST", "/settings", self.settings),
            ("GET", "/stats", self.stats),
            ("GET", "/batches", self.batches),
            ("GET", "/timeline", self.timeline),
            ("GET", "/answers", self.answers),
            ("POST", "/batches/{batch_id}", self.force),
            ("POST", "/seed", self.seed),
            ("POST", "/reset", self.reset),
        ):
            app.add_api_route(f"/_dev{path}", endpoint, methods=[method], response_model=None)

    async def faults(self, request: Request) -> Response:
        return _json({"rules": self._service.faults.add(await _read(request, list))})

    async def clear_faults(self) -> Response:
        self._service.faults.clear()
        return _json({"rules": 0})

    async def settings(self, request: Request) -> Response:
        return _json(self._service.patch_settings(await _read(request, dict)))

    async def stats(self, request: Request) -> Response:
        return _json(self._service.stats(request.query_params.get("metadata_key")))

    async def batches(self, request: Request) -> Response:
        query = request.query_params.items()
        prefix = "metadata."
        wanted = {name.removeprefix(prefix): text for name, text in query if name.startswith(prefix)}
        return _json(self._service.show_batches(wanted))

    async def timeline(self) -> Response:
        return _json(self._service.timeline())

    async def answers(self, at_least: int = 1) -> Response:
        return _json(self._service.answers(at_least))

    async def force(self, batch_id: str, request: Request) -> Response:
        changes = await _read(request, dict)
        return _json(await asyncio.to_thread(partial(self._service.force, batch_id, **changes)))

    async def seed(self, request: Request) -> Response:
        try:
            return _json({"batches": self._service.seed(**await _read(request, dict))})
        except TypeError as error:
            raise ApiError(HTTPStatus.BAD_REQUEST, f"Invalid seed: {error}") from None

    async def reset(self) -> Response:
        self._service.reset()
        return _json({"reset": True})


async def _read(request: Request, kind: type) -> Any:
    try:
        return msgspec.json.decode(await request.body(), type=kind)
    except NOT_JSON as error:
        raise ApiError(HTTPStatus.BAD_REQUEST, f"Invalid body: {error}") from None


def _json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
