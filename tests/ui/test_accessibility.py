"""The page for those who do not see it, see little, or have no mouse."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import axe
import pytest
import scene
from page import contrast
from playwright.sync_api import expect

if TYPE_CHECKING:
    from collections.abc import Callable

    from page import Account, BatchesPage
    from playwright.sync_api import Locator

    Ids = dict[str, str]

SECONDS = 1_000
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
EVIL = '<img src=x onerror="window.top.broken = 1">\'"\u202e'
ARABIC = "تلخيص الليل"
RUN = """async (tags) => {
    const { violations } = await axe.run(document, { runOnly: { type: "tag", values: tags } });
    const why = (node) => [...node.any, ...node.all, ...node.none].map((check) => check.message).join(" ");
    return violations.flatMap(({ id, nodes }) => nodes.map((node) => `${id}: ${node.html} ${why(node)}`));
}"""
FOCUSED = """() => {
    const { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement);
    return outlineStyle !== "none" && parseFloat(outlineWidth) >= 2;
}"""


@pytest.fixture(scope="session")
def axe_core() -> str:
    """The script of axe-core."""
    try:
        return axe.source()
    except axe.AxeMissingError as error:
        pytest.fail(str(error))


def faults(page: BatchesPage, script: str) -> list[str]:
    page.document.evaluate(script)
    found: list[str] = page.document.evaluate(RUN, RULES)
    return found


def show_batches(page: BatchesPage, ids: Ids, theme: str = "light") -> None:
    page.open_in(theme)
    expect(page.rows).to_have_count(len(ids))


def show_jobs(page: BatchesPage, ids: Ids) -> None:
    page.open_in(view="jobs")
    expect(page.rows.first).to_be_visible()


def show_panel(page: BatchesPage, ids: Ids) -> None:
    show_batches(page, ids)
    page.row(ids["partly"]).click()
    expect(page.panel).to_contain_text("First failed requests")


def show_job(page: BatchesPage, ids: Ids) -> None:
    show_jobs(page, ids)
    page.rows.first.locator(".open").click()
    expect(page.job_panel).to_contain_text("Batches")


def show_question(page: BatchesPage, ids: Ids) -> None:
    show_batches(page, ids)
    page.cell(ids["running"], "actions").get_by_role("button").click()
    expect(page.frame.locator("#question")).to_be_visible()


def show_costs(page: BatchesPage, ids: Ids) -> None:
    page.open_in(conn_id="month")
    page.frame.locator("#costs summary").click()
    page.frame.locator("#costs-hours").select_option("720")
    expect(page.frame.locator("#costs tfoot")).to_be_visible()
    expect(page.frame.get_by_role("img", name="Cost by day")).to_be_visible()


def show_nothing(page: BatchesPage, ids: Ids) -> None:
    page.open_in(conn_id="empty")
    expect(page.notice).to_contain_text("No batches yet")


def show_a_dead_service(page: BatchesPage, ids: Ids) -> None:
    page.expected = (*page.expected, "503")
    page.open_in(conn_id="dead")
    expect(page.notice).to_contain_text("cannot be reached")


def show_narrow(show: Callable[[BatchesPage, Ids], None]) -> Callable[[BatchesPage, Ids], None]:
    def narrow(page: BatchesPage, ids: Ids) -> None:
        page.page.set_viewport_size({"width": 400, "height": 800})
        show(page, ids)

    return narrow


STATES = {
    "batches": show_batches,
    "jobs": show_jobs,
    "a batch": show_panel,
    "a job": show_job,
    "the question": show_question,
    "costs": show_costs,
    "nothing": show_nothing,
    "a dead service": show_a_dead_service,
    "batches, narrow": show_narrow(show_batches),
    "jobs, narrow": show_narrow(show_jobs),
    "costs, narrow": show_narrow(show_costs),
}


# These are left out of the short run.
RARE = {
    "a batch",
    "the question",
    "nothing",
    "a dead service",
    "batches, narrow",
    "jobs, narrow",
    "costs, narrow",
}


@pytest.mark.parametrize(
    "state", [pytest.param(name, marks=pytest.mark.long) if name in RARE else name for name in STATES]
)
def test_axe_finds_nothing(page: BatchesPage, ids: Ids, axe_core: str, state: str) -> None:
    """The rules of WCAG 2.2 AA that a program can check, and what axe recommends; in light and dark."""
    STATES[state](page, ids)
    assert faults(page, axe_core) == []
    page.page.evaluate("document.documentElement.classList.replace('light', 'dark')")
    expect(page.frame.locator("html")).to_have_attribute("data-theme", "dark")
    assert faults(page, axe_core) == []


@pytest.mark.long
def test_axe_finds_nothing_in_hostile_metadata(page: BatchesPage, account: Account, axe_core: str) -> None:
    hostile(account)
    page.open_in(view="jobs", conn_id=account.conn_id)
    expect(page.rows).to_have_count(2)
    assert faults(page, axe_core) == []
    page.rows.first.locator(".open").click()
    expect(page.job_panel).to_be_visible()
    assert faults(page, axe_core) == []
    page.job_panel.get_by_role("button", name="Copy").click()
    expect(page.frame.get_by_role("dialog", name="For a bug report")).to_be_visible()
    assert faults(page, axe_core) == []


@pytest.mark.long
def test_axe_finds_nothing_outside_airflow(page: BatchesPage, ids: Ids, axe_core: str) -> None:
    """Open by itself, the page has its landmarks and heading."""
    page.page.goto(page.home)
    expect(page.page.locator(".row[data-id]").first).to_be_visible()
    assert faults(page, axe_core) == []


def test_axe_would_find_something(page: BatchesPage, ids: Ids, axe_core: str) -> None:
    """So that the tests above cannot pass because nothing is looked at."""
    show_batches(page, ids)
    page.document.evaluate("document.getElementById('refresh').textContent = ''")
    assert [fault.split(":")[0] for fault in faults(page, axe_core)] == ["button-name"]


def hostile(account: Account) -> None:
    """A batch with markup and one with Arabic in its names, both with a text that turns the direction."""
    for name in (EVIL, f"{ARABIC}\u202e"):
        metadata = {**scene.made_by(name, name, name), name[:64]: name}
        batch_id = scene.create(account.server, model=name, metadata=metadata)
        account.server.force(batch_id, model=name, errors={"data": [{"code": name, "message": name}]})


@pytest.mark.long
def test_texts_that_run_to_the_left(page: BatchesPage, account: Account) -> None:
    """Foreign texts stand apart, so that they turn nothing around them; the page itself runs to the right."""
    hostile(account)
    for batch in account.server.batches():
        account.server.force(batch["id"], status="completed", usage=scene.usage(100, 10))
    page.open_in(view="jobs", conn_id=account.conn_id)
    expect(page.rows).to_have_count(2)
    page.frame.locator("#costs summary").click()
    page.frame.locator("#costs-by").select_option("model")
    expect(page.frame.locator("#costs")).to_contain_text(f"No price: {EVIL}")
    page.rows.first.locator(".open").click()
    page.job_panel.locator(".batches .open").first.click()
    expect(page.panel).to_contain_text("Metadata")
    apart = """() => {
        const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
        const found = [];
        while (texts.nextNode()) {
            const { data, parentElement: holder } = texts.currentNode;
            const isApart = holder.closest("bdi, option, title, [dir]");
            if (data.includes("\\u202e") && !isApart) found.push(holder.outerHTML);
        }
        return found;
    }"""
    assert page.document.evaluate(apart) == []
    assert page.document.evaluate("document.querySelectorAll('bdi').length") > 10
    assert page.document.evaluate("getComputedStyle(document.body).direction") == "ltr"
    assert page.page.evaluate("window.broken") is None


@pytest.mark.long
def test_bars_have_names(page: BatchesPage, ids: Ids) -> None:
    """What a bar shows is its name; what is written below it is not read twice."""
    show_batches(page, ids)
    bar = page.cell(ids["running"], "progress").get_by_role("progressbar")
    expect(bar).to_have_accessible_name("13,420 of 20,000 requests done, 17 failed")
    expect(bar).to_have_attribute("aria-valuenow", "13437")
    expect(page.cell(ids["validating"], "progress").get_by_role("progressbar")).to_have_accessible_name(
        "Requests: not counted yet"
    )
    written = page.cell(ids["running"], "progress").locator("[aria-hidden]")
    expect(written).to_have_text("13,420 of 20,000 · 17 failed")
    expect(page.frame.get_by_role("rowheader", name=ids["running"])).to_have_count(1)


def focus(page: BatchesPage) -> str:
    """What has the focus in the frame, in words."""
    words: str = page.document.evaluate(
        """() => {
            const { id, dataset, className, tagName } = document.activeElement;
            return id || dataset.view || dataset.status || className || tagName.toLowerCase();
        }"""
    )
    return words


@pytest.mark.long
def test_the_keys_reach_everything(page: BatchesPage, ids: Ids) -> None:
    """In the order in which it stands there, and it is seen where the focus is."""
    show_batches(page, ids)
    page.frame.locator("#costs summary").click()
    expect(page.frame.locator("#costs tfoot")).to_be_visible()
    page.frame.locator("#connection").focus()
    order: list[str] = []
    while "open" not in order and len(order) < 40:
        order.append(focus(page))
        assert page.document.evaluate(FOCUSED), order
        page.page.keyboard.press("Tab")
    filters = ["jobs", "batches", "text", "dag", "hours", "all", "running", "completed", "failed"]
    costs = ["costs-hours", "costs-by", "chip", "chip", "day", "wide"]
    expected = ["connection", "refresh", "summary", *costs, *filters, "expired", "cancelled", "open"]
    assert order == expected


def focused(page: BatchesPage) -> Locator:
    return page.frame.locator(":focus")


def test_the_focus_comes_back(page: BatchesPage, ids: Ids) -> None:
    """To what opened a dialog; after a click with the mouse, to the row."""
    show_batches(page, ids)
    page.cell(ids["whole"], "status").click()
    expect(focused(page)).to_have_text("Close")
    page.page.keyboard.press("Escape")
    expect(focused(page)).to_have_text(ids["whole"])
    page.cell(ids["running"], "actions").get_by_role("button").press("Enter")
    expect(focused(page)).to_have_text("Keep it running")
    page.page.keyboard.press("Escape")
    expect(focused(page)).to_have_accessible_name(f"Cancel {ids['running']}")
    page.row(ids["running"]).locator(".open").press("Enter")
    page.panel.get_by_role("button", name="Cancel batch").press("Enter")
    page.page.keyboard.press("Escape")
    expect(focused(page)).to_have_text("Cancel batch")


@pytest.mark.long
def test_the_focus_after_a_cancel(page: BatchesPage, account: Account) -> None:
    """The button that was pressed is gone: the row has the focus, and it is said what happened."""
    server, conn_id = account
    batch_id = scene.create(server, metadata=scene.made_by("classify_reviews", "r", "classify"))
    page.open_in(conn_id=conn_id)
    page.cell(batch_id, "actions").get_by_role("button").press("Enter")
    page.page.keyboard.press("Tab")
    page.page.keyboard.press("Enter")
    expect(page.cell(batch_id, "status")).to_have_text("cancelling")
    expect(focused(page)).to_have_text(batch_id)
    expect(page.frame.locator("#said")).to_have_text(f"Batch {batch_id} is being cancelled.")


@pytest.mark.long
def test_the_focus_stays_while_a_batch_goes_on(page: BatchesPage, account: Account) -> None:
    """The panel is redrawn every few seconds; what has the focus keeps it, or the panel does."""
    server, conn_id = account
    batch_id = scene.create(server, metadata=scene.made_by("classify_reviews", "r", "classify"))
    page.open_in(conn_id=conn_id)
    page.row(batch_id).locator(".open").press("Enter")
    page.panel.get_by_role("link", name="classify_reviews").focus()
    server.force(batch_id, request_counts={"total": 3, "completed": 1, "failed": 0})
    expect(page.panel).to_contain_text("1 of 3", timeout=20 * SECONDS)
    expect(focused(page)).to_have_text("classify_reviews")
    page.panel.get_by_role("button", name="Cancel batch").focus()
    server.force(batch_id, status="completed")
    expect(page.panel.locator(".badge")).to_have_text("completed", timeout=20 * SECONDS)
    expect(focused(page)).to_have_text("Close")


@pytest.mark.long
def test_what_is_said(page: BatchesPage, ids: Ids) -> None:
    """How many rows a filter leaves, and what a sum is."""
    show_batches(page, ids)
    said = page.frame.locator("#said")
    expect(said).to_have_role("status")
    page.frame.locator("#text").fill("nightly")
    expect(said).to_have_text("3 batches shown.")
    page.frame.locator("#costs summary").click()
    expect(said).to_have_text(re.compile(r"Costs of \d+ batches: ≥ \$"))


@pytest.mark.long
def test_a_single_character_does_nothing(page: BatchesPage, ids: Ids) -> None:
    """Speech input presses keys unawares: the key of the search needs Control."""
    show_batches(page, ids)
    page.row(ids["whole"]).locator(".open").focus()
    page.page.keyboard.press("/")
    expect(focused(page)).to_have_text(ids["whole"])
    page.page.keyboard.press("Control+/")
    expect(focused(page)).to_have_id("text")


@pytest.mark.long
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_edges_are_seen(page: BatchesPage, ids: Ids, theme: str) -> None:
    """Fields stand out from the ground by 3 to 1; axe looks at texts alone."""
    show_batches(page, ids, theme)
    ground = "getComputedStyle(document.body).backgroundColor"
    for field in ("#text", "#dag", "#connection"):
        edge = f"getComputedStyle(document.querySelector('{field}')).borderTopColor"
        assert contrast(page, *page.document.evaluate(f"[{edge}, {ground}]")) >= 3


@pytest.mark.long
def test_nothing_moves_for_those_who_asked_for_it(page: BatchesPage, ids: Ids) -> None:
    show_batches(page, ids)
    moving = "document.getAnimations().length"
    expect(page.frame.locator("#pulse")).to_have_attribute("data-live", "true")
    assert page.document.evaluate(moving)
    page.page.emulate_media(reduced_motion="reduce")
    assert not page.document.evaluate(moving)
    assert (
        page.document.evaluate("getComputedStyle(document.querySelector('.done')).transitionDuration") == "0s"
    )


@pytest.mark.long
def test_the_systems_own_colours(page: BatchesPage, ids: Ids) -> None:
    """What is shown by its ground alone is still seen in high contrast: bars, and the chosen filter."""
    show_batches(page, ids)
    page.page.emulate_media(forced_colors="active")
    row = f'.row[data-id="{ids["running"]}"]'
    for one, other in (
        (f"{row} .done", f"{row} .bar"),
        (".chip[aria-pressed=true]", ".chip[aria-pressed=false]"),
    ):
        colours = [
            page.document.evaluate(f"getComputedStyle(document.querySelector('{place}')).backgroundColor")
            for place in (one, other)
        ]
        assert contrast(page, *colours) >= 3


WIDTHS: dict[str, Any] = {"200 %": {"width": 720, "height": 450}, "400 %": {"width": 320, "height": 300}}


@pytest.mark.long
@pytest.mark.parametrize("zoom", WIDTHS)
@pytest.mark.parametrize("view", ["jobs", "batches"])
def test_zoom(page: BatchesPage, ids: Ids, view: str, zoom: str) -> None:
    """A window of 1440 or 1280 pixels that is zoomed in has to be scrolled in one direction alone."""
    page.page.set_viewport_size(WIDTHS[zoom])
    page.page.goto(f"{page.home}?view={view}")
    fits = "document.documentElement.scrollWidth <= innerWidth"
    page.page.locator(".row[data-id]:not([hidden])").first.wait_for()
    page.page.locator("#costs summary").click()
    page.page.locator("#costs tfoot").wait_for()
    assert page.page.evaluate(fits)
    page.page.locator(".table:not([hidden]) .row[data-id] .open").first.click()
    page.page.locator("dialog[open]").wait_for()
    assert page.page.evaluate(fits)
    assert page.page.evaluate(
        "[...document.querySelectorAll('dialog[open]')].every(one => one.scrollWidth <= one.clientWidth)"
    )
