"""The page's routes in Airflow's own API app, with a real metadata database and real sessions."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import threading
import time
import warnings
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import airflow
import httpx
import pytest
import uvicorn
from packaging import version
from scene import DEPLOYMENT

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from fastapi import FastAPI

    from airflow_provider_openai_batches.devserver import DevServer

PREFIX = "/openai-batches"
ROLES = ("viewer", "user", "op", "admin")
DAGS = ("mine", "theirs")
HAS_COOKIE = version.parse(airflow.__version__) >= version.parse("3.1")


@pytest.fixture(scope="session", autouse=True)
def _airflow() -> None:
    """Import Airflow's API app once, without the warnings about the libraries that it uses."""
    os.environ["AIRFLOW__API_AUTH__JWT_SECRET"] = "a secret of the length that signing asks for" * 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("airflow_provider_openai_batches.plugin.app")
        importlib.import_module("airflow.api_fastapi.core_api.routes.public")
        importlib.import_module("airflow.api_fastapi.core_api.routes.ui")


@pytest.fixture(scope="session")
def _database(_airflow: None) -> None:
    """Airflow's tables, with two DAGs and a run."""
    from airflow.models.dag import DagModel
    from airflow.models.dagbundle import DagBundleModel
    from airflow.models.dagrun import DagRun
    from airflow.utils.db import initdb
    from airflow.utils.session import create_session
    from airflow.utils.types import DagRunTriggeredByType, DagRunType

    initdb()
    with create_session() as session:
        session.add(DagBundleModel(name="dags"))
        session.flush()
        for dag_id in DAGS:
            dag = DagModel(dag_id=dag_id, bundle_name="dags", is_paused=False)  # type: ignore[no-untyped-call]
            session.add(dag)
        session.flush()
        session.add(
            DagRun(
                dag_id="mine",
                run_id="run_1",
                run_type=DagRunType.MANUAL,
                run_after=datetime.now(UTC),
                triggered_by=DagRunTriggeredByType.UI,
            )
        )


@pytest.fixture(scope="session")
def airflow_app(_database: None) -> FastAPI:
    """Airflow's API app; it mounts this package's plugin by its entry point."""
    from airflow.api_fastapi.app import create_app

    return create_app(apps="core")


class Api:
    """Airflow's API app, served in a thread."""

    def __init__(self, app: FastAPI) -> None:
        config = uvicorn.Config(app, port=0, log_level="error", log_config=None, ws="none", loop="asyncio")
        self._server = uvicorn.Server(config)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        self._loop.run_until_complete(self._server.serve())
        self._loop.close()

    def start(self) -> None:
        self._thread.start()
        deadline = time.monotonic() + 30
        while not self._server.started and time.monotonic() < deadline:
            time.sleep(0.02)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run something on the server's own loop."""
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)


@pytest.fixture(scope="session")
def api(airflow_app: FastAPI) -> Iterator[Api]:
    """That app on a port of this host."""
    server = Api(airflow_app)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def client(api: Api, server: DevServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    """A client of that app, not logged in; no answer of the service is cached."""
    from airflow_provider_openai_batches.plugin import OpenAIBatchesPlugin
    from airflow_provider_openai_batches.plugin.app import create_app
    from airflow_provider_openai_batches.plugin.clients import CachedClients

    monkeypatch.setenv("AIRFLOW__OPENAI_BATCHES__DEPLOYMENT_ID", DEPLOYMENT)
    clients = CachedClients(seconds=0)
    OpenAIBatchesPlugin.fastapi_apps[0]["app"]._app = create_app(clients)
    with httpx.Client(base_url=api.url, trust_env=False, timeout=30) as http:
        yield http
    api.run(clients.aclose())


@pytest.fixture
def login(client: httpx.Client) -> Callable[[str], httpx.Client]:
    """Give the client the session cookie of a user with a role; Airflow 3.0 knows only the header."""
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

    def as_role(role: str) -> httpx.Client:
        user = SimpleAuthManagerUser(username=role, role=role)
        token = get_auth_manager().generate_jwt(user)
        if HAS_COOKIE:
            client.cookies.set("_token", token, domain="127.0.0.1")
        else:
            client.headers["Authorization"] = f"Bearer {token}"
        return client

    return as_role


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Define a connection in the environment; its id."""

    def define(conn_id: str, **fields: object) -> str:
        fields = {"conn_type": "openai_batches", "password": "sk-secret-1234567890", **fields}
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(fields))
        return conn_id

    return define


@pytest.fixture
def ran(_database: None) -> Iterator[Callable[..., None]]:
    """Give the database the task instance of a task of the run, and its XComs as the database stores them."""
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import Table, delete, insert, select

    instances: Table = TaskInstance.__table__
    stored: Table = XComModel.__table__

    def add(task: tuple[str, str, str, int], state: str = "deferred", **xcoms: Any) -> None:
        names = dict(zip(("dag_id", "run_id", "task_id", "map_index"), task, strict=True))
        began = datetime.now(UTC) - timedelta(minutes=5)
        row = {**names, "state": state, "try_number": 1, "start_date": began, "pool": "default_pool"}
        with create_session() as session:
            run = select(DagRun.id).where(DagRun.dag_id == task[0], DagRun.run_id == task[1])
            session.execute(insert(instances).values(**row, pool_slots=1, custom_operator_name="x"))
            for key, value in xcoms.items():
                of = {**names, "dag_run_id": session.scalar(run), "timestamp": began}
                session.execute(insert(stored).values(**of, key=key, value=value))

    yield add
    with create_session() as session:
        session.execute(delete(stored))
        session.execute(delete(instances))


@pytest.fixture
def refuse(airflow_app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str | None], None]:
    """Let the auth manager refuse one thing for DAG ``mine``, and allow all others."""

    def of(refused_method: str, refused_entity: str | None) -> None:
        def allows(*, method: str, user: Any, access_entity: Any = None, details: Any = None) -> bool:
            asked = method, getattr(access_entity, "value", None)
            is_mine = details is not None and details.id == "mine"
            return not (is_mine and asked == (refused_method, refused_entity))

        monkeypatch.setattr(airflow_app.state.auth_manager, "is_authorized_dag", allows)

    return of
