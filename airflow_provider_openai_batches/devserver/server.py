"""The server in a thread of this process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Literal, Self

import msgspec
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from airflow_provider_openai_batches.devserver.app import create_app
from airflow_provider_openai_batches.devserver.service import BatchService
from airflow_provider_openai_batches.devserver.settings import Settings
from airflow_provider_openai_batches.devserver.upstream import Upstream

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONNECTION = "AIRFLOW_CONN_OPENAI_BATCHES_DEFAULT"
KEY = "devserver-key"
START_TIMEOUT = 10.0
TICK = 1.0
BACKLOG = 2048


class _Protocol(HttpToolsProtocol):
    """Gives the application access to its connection, so that a fault can cut the connection."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["devserver.transport"] = self.transport  # type: ignore[typeddict-unknown-key]


# To use uvloop, uvicorn before 0.36 changes the event loop policy of the whole process.
_LOOP: Literal["auto", "asyncio"] = "auto" if hasattr(uvicorn.Config, "get_loop_factory") else "asyncio"


class _Uvicorn(uvicorn.Server):
    """Stops at once: it waits neither for the next tick nor for open connections."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped: asyncio.Event | None = None

    def stop(self) -> None:
        if self._loop is not None and self._stopped is not None:
            self._loop.call_soon_threadsafe(self._stopped.set)

    async def main_loop(self) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        await self.on_tick(0)
        self.ready.set()
        while not self._stopped.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), TICK)
            await self.on_tick(0)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for sock in sockets or []:
            sock.close()
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        tasks = list(self.server_state.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        while self.server_state.connections:  # noqa: ASYNC110 - the loop closes them soon
            await asyncio.sleep(0)


class DevServer:
    """
    An OpenAI Batch API on loopback.

    ``with DevServer(batch_seconds=0.2) as server: server.base_url``. Leaving the block closes the server.
    Between :meth:`stop` and :meth:`start` there is an outage: connections are refused, but batches go on.

    :param port: 0 picks a free port.
    :param clock: the wall clock, in Unix seconds.
    :param data_dir: where files are kept; by default, in a temporary folder.
    :param upstream: the base URL of a real API to send the requests to, with ``/v1``.
    :param upstream_key: the API key of the upstream.
    :param concurrency: how many requests are sent to the upstream at a time.
    :param settings: see :class:`~airflow_provider_openai_batches.devserver.settings.Settings`.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Callable[[], float] = time.time,
        data_dir: Path | None = None,
        upstream: str | None = None,
        upstream_key: str | None = None,
        concurrency: int = 8,
        **settings: Any,
    ) -> None:
        real = Upstream(upstream, upstream_key, concurrency) if upstream else None
        self.service = BatchService(msgspec.convert(settings, Settings), clock, data_dir, real)
        self._app = create_app(self.service)
        self._host = host
        self._port = port
        self._server: _Uvicorn | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def base_url(self) -> str:
        return f"http://{self._host}:{self._port}/v1"

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that make the default connection point to this server."""
        keys = self.service.settings.api_keys
        connection = {
            "conn_type": "openai_batches",
            "host": self.base_url,
            "password": keys[0] if keys else KEY,
        }
        return {CONNECTION: json.dumps(connection)}

    def start(self) -> None:
        """
        Start serving. After :meth:`stop`, this uses the same port again, with the same files and batches.

        :raises OSError: if the port is taken.
        """
        if self._thread is not None:
            return
        listener = socket.create_server((self._host, self._port), backlog=BACKLOG)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # without it small answers wait 40 ms
        self._port = listener.getsockname()[1]
        config = uvicorn.Config(
            self._app,
            http=_Protocol,
            loop=_LOOP,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=75,
            backlog=BACKLOG,
        )
        self._server = _Uvicorn(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([listener],), name="devserver", daemon=True
        )
        self._thread.start()
        if not self._server.ready.wait(START_TIMEOUT):
            raise RuntimeError(f"The dev server did not start in {START_TIMEOUT} s.")

    def stop(self) -> None:
        """Close all connections and refuse new ones. Batches go on."""
        if self._server is not None and self._thread is not None:
            self._server.stop()
            self._thread.join()
        self._server = self._thread = None

    def close(self) -> None:
        """Stop for good. Files in a ``data_dir`` are kept."""
        self.stop()
        self.service.close()

    def faults(self, rules: list[dict[str, Any]]) -> None:
        self.service.faults.add(rules)

    def clear_faults(self) -> None:
        self.service.faults.clear()

    def settings(self, **changes: Any) -> dict[str, Any]:
        return self.service.patch_settings(changes)

    def stats(self, metadata_key: str | None = None) -> dict[str, Any]:
        return self.service.stats(metadata_key)

    def batches(self, **metadata: str) -> list[dict[str, Any]]:
        return self.service.show_batches(metadata)

    def timeline(self) -> list[dict[str, Any]]:
        return self.service.timeline()

    def answers(self, at_least: int = 1) -> list[dict[str, Any]]:
        return self.service.answers(at_least)

    def force(self, batch_id: str, **changes: Any) -> dict[str, Any]:
        return self.service.force(batch_id, **changes)

    def seed(self, count: int, **options: Any) -> None:
        self.service.seed(count, **options)

    def reset(self) -> None:
        self.service.reset()
