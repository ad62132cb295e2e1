"""The page inside Airflow, as a user sees it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlencode

from airflow import __version__ as airflow_version
from packaging.version import Version
from playwright.sync_api import expect

if TYPE_CHECKING:
    from playwright.sync_api import ConsoleMessage, Frame, FrameLocator, Locator, Page, Response

    from airflow_provider_openai_batches.devserver import DevServer

AIRFLOW = Version(airflow_version)
NEWEST = (3, 3)
# The browser warns about the sandbox in which Airflow puts every plugin, and names the plugin's page for it.
SANDBOX = "allow-scripts and allow-same-origin"
DOCS = Path(__file__).parents[1] / "docs"
# The contrast of two colours, in whatever form the style sheet has them.
CONTRAST = """(colours) => {
    const light = (colour) => {
        const context = new OffscreenCanvas(1, 1).getContext("2d");
        context.fillStyle = colour;
        context.fillRect(0, 0, 1, 1);
        const part = (value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
        const [r, g, b] = [...context.getImageData(0, 0, 1, 1).data].map((value) => part(value / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const [low, high] = colours.map(light).sort((one, other) => one - other);
    return (high + 0.05) / (low + 0.05);
}"""


class Account(NamedTuple):
    """A dev server and the connection that leads to it."""

    server: DevServer
    conn_id: str


class BatchesPage:
    """
    Opens the page, finds its parts, and keeps what the browser complains about.

    What the browser says of Airflow's own scripts and requests is left out.

    :param complaints: errors of scripts and of the content security policy, and requests that went elsewhere.
    """

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.home = f"{url}/openai-batches/"
        self.complaints: list[str] = []
        self.expected: tuple[str, ...] = (SANDBOX,)
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("response", self._response)

    def _console(self, message: ConsoleMessage) -> None:
        source = message.location["url"]
        airflows_own = source.startswith(self.url) and not source.startswith(self.home)
        if message.type not in {"error", "warning"} or airflows_own:
            return
        if not any(words in message.text for words in self.expected):
            self.complaints.append(message.text)

    def _response(self, response: Response) -> None:
        if not response.url.startswith((self.url, "data:", "blob:")):
            self.complaints.append(f"a request to another host: {response.url}")

    def open(self, view: str = "batches", **params: str) -> BatchesPage:
        """Go to the page in the Airflow UI."""
        shown = {"view": view, **params} if view else params
        self.page.goto(f"{self.url}/plugin/openai-batches?{urlencode(shown)}")
        return self

    def open_run(self, dag_id: str, run_id: str, **params: str) -> BatchesPage:
        """Go to the tab of a DAG run."""
        shown = urlencode({"view": "batches", **params})
        self.page.goto(f"{self.url}/dags/{dag_id}/runs/{run_id}/plugin/openai-batches-run?{shown}")
        return self

    def open_in(self, theme: str = "light", view: str = "batches", **params: str) -> BatchesPage:
        """Go to the page in Airflow's light or dark mode, and wait until it has loaded."""
        self.page.add_init_script(f"localStorage.setItem('theme', '{theme}')")
        self.open(view, **params)
        patience = 30_000
        expect(self.frame.locator("html")).to_have_attribute("data-theme", theme, timeout=patience)
        expect(self.frame.locator("body")).to_have_attribute("aria-busy", "false", timeout=patience)
        return self

    def picture(self, name: str) -> None:
        """Keep a picture for the documents, which show the newest Airflow."""
        if AIRFLOW.release[:2] >= NEWEST:
            self.page.screenshot(path=DOCS / name)

    @property
    def document(self) -> Frame:
        """What is in the frame, for scripts."""
        return next(frame for frame in self.page.frames if frame.url.startswith(self.home))

    @property
    def frame(self) -> FrameLocator:
        return self.page.frame_locator("iframe")

    @property
    def rows(self) -> Locator:
        return self.frame.locator(".table:not([hidden]) .group:not([hidden]) .row[data-id]:not([hidden])")

    def row(self, batch_id: str) -> Locator:
        return self.frame.locator(f'.row[data-id="{batch_id}"]')

    def job(self, *words: str) -> Locator:
        """The rows of jobs in which all these words are."""
        found = self.frame.locator("#jobs .group:not([hidden]) .row[data-id]:not([hidden])")
        for word in words:
            found = found.filter(has_text=word)
        return found

    @property
    def job_panel(self) -> Locator:
        return self.frame.locator("#job-panel[open]")

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

    def first_shown(self) -> tuple[float, float]:
        """Milliseconds to the first paint, and to the first rows."""
        name = "performance.getEntriesByName('{}')[0].startTime"
        paint, rows = map(name.format, ("first-contentful-paint", "batches-shown"))
        return self.document.evaluate(paint), self.document.evaluate(rows)

    def scroll_to(self, count: int, rows: str = ".row[data-id]") -> None:
        """Load older batches until there are so many rows, or none come any more."""
        self.document.evaluate(
            """async ([rows, wanted]) => {
                const count = () => document.querySelectorAll(rows).length;
                for (let turn = 0; turn < 900 && count() < wanted; turn += 1) {
                    scrollTo(0, document.documentElement.scrollHeight);
                    document.getElementById('older').click();
                    await new Promise((done) => setTimeout(done, 50));
                }
            }""",
            [rows, count],
        )

    def filter_all(self) -> float:
        """Enter words that no row has, and return the milliseconds until it is drawn."""
        spent: float = self.document.evaluate(
            """async () => {
                const text = document.getElementById('text');
                const began = performance.now();
                text.value = 'no such thing';
                text.dispatchEvent(new Event('input', { bubbles: true }));
                await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
                return performance.now() - began;
            }"""
        )
        return spent


def contrast(page: BatchesPage, one: str, other: str) -> float:
    """How much two colours differ in lightness, from 1 to 21, as WCAG counts it."""
    ratio: float = page.document.evaluate(CONTRAST, [one, other])
    return ratio
