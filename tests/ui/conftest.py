"""A real Airflow, dev servers behind several connections, and a headless Chromium that opens the page."""

from __future__ import annotations

import json
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import scene
from airflow.providers.common.compat.sdk import AirflowPlugin
from airflow_stack import AirflowStack, free_ports
from page import Account, BatchesPage
from playwright.sync_api import expect, sync_playwright
from support import request_lines

from airflow_provider_openai_batches.devserver import DevServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, BrowserContext, StorageState

# Milliseconds: other tests may need the machine at the same time.
expect.set_options(timeout=20_000)
DAGS = Path(__file__).parent / "dags"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
MANY = 10_000
SIZE = 5  # batches of each of their jobs
TURNS = 40
# https://developers.openai.com/api/docs/pricing
PRICES = {
    "gpt-5": {"input": 1.25, "cached_input": 0.125, "output": 10.0},
    "gpt-5-mini": {"input": 0.25, "cached_input": 0.025, "output": 2.0},
    "text-embedding-3-large": {"input": 0.13, "output": 0.0},
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests in this directory need a browser, and an Airflow that shows plugins' pages."""
    no_page = pytest.mark.skipif(
        not hasattr(AirflowPlugin, "external_views"), reason="Airflow 3.0 has no page"
    )
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.ui)
            item.add_marker(no_page)
            item.add_marker(pytest.mark.timeout(300))


@pytest.fixture(scope="session")
def services() -> Iterator[dict[str, DevServer]]:
    """A dev server for each kind of account."""
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(DevServer(batch_seconds=0.2))
            for name in ("team", "live", "jobs", "other", "large")
        }
        servers["empty"] = stack.enter_context(DevServer())
        servers["month"] = stack.enter_context(DevServer())
        scene.fill_month(servers["month"])
        servers["large"].seed(
            MANY,
            metadata=[scene.made_by("embed_products", f"run_{n // SIZE}", "embed") for n in range(MANY)],
            spread_seconds=1_000_000,
        )
        for name in ("live", "jobs"):
            servers[name].settings(batch_seconds=12.0)
        yield servers


@pytest.fixture(scope="session")
def ids(services: dict[str, DevServer]) -> dict[str, str]:
    """The batches of the team's account, by their name in the scene."""
    return scene.arrange(services["team"])


@pytest.fixture(scope="session")
def airflow(
    services: dict[str, DevServer], ids: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AirflowStack]:
    """Scheduler, triggerer, DAG processor and API servers."""
    work = tmp_path_factory.mktemp("ui")
    (work / "requests.jsonl").write_bytes(request_lines(40))
    hosts = {name: server.base_url for name, server in services.items()}
    hosts["openai_batches_default"] = hosts.pop("team")
    hosts |= {f"other_{number}": services["other"].base_url for number in range(TURNS)}
    hosts["dead"] = f"http://127.0.0.1:{free_ports(1)[0]}/v1"
    connections = {
        f"AIRFLOW_CONN_{name.upper()}": json.dumps(
            {
                "conn_type": "openai_batches",
                "host": host,
                "password": "sk-ui-test-key",
                "extra": {"prices": PRICES},
            }
        )
        for name, host in hosts.items()
    }
    variables = {"UI_WORK": str(work), "AIRFLOW__OPENAI_BATCHES__DEPLOYMENT_ID": scene.DEPLOYMENT}
    with ExitStack() as ends:
        # Its name is in a picture.
        variables["UI_OUTPUT"] = ends.enter_context(tempfile.TemporaryDirectory(prefix="reviews-"))
        stack = ends.enter_context(AirflowStack(work / "airflow", DAGS, {**variables, **connections}))
        started = list(stack.processes.values())
        for dag_id in ("ask", "classify_table", "classify_reviews", "embed_products", "nightly_summaries"):
            stack.wait_for_dag(dag_id)
        yield stack
    for process in started:
        process.wait(timeout=10)


@pytest.fixture(scope="session")
def turns() -> Iterator[int]:
    """Tests that change their account have a connection each, because answers are cached for some seconds."""
    return iter(range(TURNS))


@pytest.fixture
def account(services: dict[str, DevServer], turns: Iterator[int]) -> Iterator[Account]:
    """An empty account in which nothing changes by itself."""
    server = services["other"]
    server.reset()
    server.settings(freeze=True)
    yield Account(server, f"other_{next(turns)}")
    server.reset()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The Chromium of this host."""
    program = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if program is None:
        pytest.fail("There is no Chromium here. Get it with: apt-get update && apt-get install -y chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def login(browser: Browser, airflow: AirflowStack) -> StorageState:
    """A login. Airflow 3.1 forgets after it which page was asked for, so it comes before each test."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(airflow.url)
    page.get_by_role("button", name="Browse").wait_for()
    state = context.storage_state()
    context.close()
    return state


@pytest.fixture
def context(browser: Browser, login: StorageState) -> Iterator[BrowserContext]:
    """A fresh window, as wide as a laptop's."""
    context = browser.new_context(
        viewport={"width": 1440, "height": 900}, color_scheme="light", storage_state=login
    )
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext, airflow: AirflowStack) -> Iterator[BatchesPage]:
    """The page in Airflow's frame; it must not log an error or break its own security policy."""
    page = BatchesPage(context.new_page(), airflow.url)
    yield page
    assert page.complaints == []
