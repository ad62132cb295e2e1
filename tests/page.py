"""The page inside Airflow, as a user sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlencode

if TYPE_CHECKING:
    from playwright.sync_api import ConsoleMessage, FrameLocator, Locator, Page, Response

    from airflow_provider_openai_batches.devserver import DevServer

# The browser warns about the sandbox in which Airflow puts every plugin.
AIRFLOWS_OWN = "allow-scripts and allow-same-origin"


class Account(NamedTuple):
    """A dev server and the connection that leads to it."""

    server: DevServer
    conn_id: str


class BatchesPage:
    """
    Opens the page, finds its parts, and keeps what the browser complains about.

    :param complaints: errors of scripts and of the content security policy, and requests that went elsewhere.
    """

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        self.expected: tuple[str, ...] = (AIRFLOWS_OWN,)
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("response", self._response)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and not any(words in message.text for words in self.expected):
            self.complaints.append(message.text)

    def _response(self, response: Response) -> None:
        if not response.url.startswith((self.url, "data:", "blob:")):
            self.complaints.append(f"a request to another host: {response.url}")

    def open(self, **params: str) -> BatchesPage:
        """Go to the page in the Airflow UI."""
        inner = f"/openai-batches/?{urlencode(params)}" if params else ""
        self.page.goto(f"{self.url}/plugin/openai-batches{inner}")
        return self

    def open_run(self, dag_id: str, run_id: str) -> BatchesPage:
        """Go to the tab of a DAG run."""
        self.page.goto(f"{self.url}/dags/{dag_id}/runs/{run_id}/plugin/openai-batches-run")
        return self

    @property
    def frame(self) -> FrameLocator:
        return self.page.frame_locator("iframe")

    @property
    def rows(self) -> Locator:
        return self.frame.locator(".group:not([hidden]) .row[data-id]:not([hidden])")

    def row(self, batch_id: str) -> Locator:
        return self.frame.locator(f'.row[data-id="{batch_id}"]')

    @property
    def panel(self) -> Locator:
        return self.frame.locator("#panel[open]")

    @property
    def notice(self) -> Locator:
        return self.frame.locator("#notice")

    def chip(self, status: str) -> Locator:
        return self.frame.locator(f'.chip[data-status="{status}"]')

    def cell(self, batch_id: str, name: str) -> Locator:
        return self.row(batch_id).locator(f".cell.{name}")
