"""The stores and their connections; these tests need the extra `stores` (make test-stores)."""

from __future__ import annotations

import importlib.util
import json
import os
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_openai_batches.devserver import DevServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cloudkit import Emulator, MotoStore

collect_ignore_glob = ["test_*.py"] if importlib.util.find_spec("moto") is None else []
# One process may have no hierarchical namespaces: gcsfs asks for them over gRPC, which the emulator has not.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = os.path.dirname(__file__)  # noqa: PTH120 - as pytest's paths are compared
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker("stores")
            item.add_marker(pytest.mark.filterwarnings("ignore"))  # the clouds' own libraries


@pytest.fixture(scope="module")
def module_server() -> Iterator[DevServer]:
    with DevServer(batch_seconds=0.05) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        patch.setenv("AIRFLOW__OPENAI_BATCHES__RECOVERY_SECONDS", "0.2")
        yield server


@pytest.fixture
def server(module_server: DevServer) -> DevServer:
    """One server for a module, reset for each test; the default connection leads to it."""
    module_server.reset()
    module_server.settings(batch_seconds=0.05)
    return module_server


def connect(name: str, connection: dict[str, Any]) -> None:
    os.environ[f"AIRFLOW_CONN_{name.upper()}"] = json.dumps(connection)


@pytest.fixture(scope="session")
def moto() -> Iterator[MotoStore]:
    from cloudkit import BUCKET, MotoStore

    from airflow_provider_openai_batches.storage import as_path

    store = MotoStore()
    connect("aws_default", store.connection)
    as_path(f"s3://aws_default@{BUCKET}").fs.mkdir(BUCKET)
    yield store
    store.stop()


@pytest.fixture
def s3(moto: MotoStore) -> Iterator[MotoStore]:
    """S3, with nothing counted and nothing denied yet."""
    moto.requests.clear()
    yield moto
    moto.denied = lambda _method, _path: False


@pytest.fixture(scope="session")
def gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    from cloudkit import gcs_connection, gcs_emulator

    store = gcs_emulator(tmp_path_factory.mktemp("gcs"))
    connect("google_cloud_default", gcs_connection(store.url))
    yield store
    store.stop()


@pytest.fixture(scope="session")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    from cloudkit import BUCKET, azure_connection, azurite, azurite_program

    from airflow_provider_openai_batches.storage import as_path

    assert azurite_program(), "Azurite needs Node.js and npm: see make test-stores"
    store = azurite(tmp_path_factory.mktemp("azure"))
    connect("wasb_default", azure_connection(store.url))
    as_path(f"abfs://wasb_default@{BUCKET}").fs.mkdir(BUCKET)
    yield store
    store.stop()


STORES = {"s3": "s3://aws_default", "gcs": "gs://google_cloud_default", "azure": "abfs://wasb_default"}


@pytest.fixture(params=STORES)
def base(request: pytest.FixtureRequest) -> str:
    """A new directory of each store."""
    from cloudkit import BUCKET

    request.getfixturevalue(request.param)
    return f"{STORES[request.param]}@{BUCKET}/{uuid.uuid4().hex}"
