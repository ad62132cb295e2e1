"""The chart of costs and requests by day."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import scene
from page import contrast
from playwright.sync_api import expect
from support import until

if TYPE_CHECKING:
    from page import Account, BatchesPage
    from playwright.sync_api import Locator, Route

    Ids = dict[str, str]

pytestmark = pytest.mark.long
EVIL = '<img src=x onerror="window.top.broken = 1">\u202e'
SECONDS = 1_000
ROUTE = "**/openai-batches/api/costs/days?*"
TODAY = datetime(2026, 11, 26, tzinfo=UTC)


def days(*series: dict[str, Any], is_known: bool = True) -> dict[str, Any]:
    """An answer of the server, up to a day that is always the same."""
    count = len(series[0]["usd"]) if series else 1
    names = [(TODAY - timedelta(days=count - 1 - at)).strftime("%Y-%m-%d") for at in range(count)]
    about = {"is_known": is_known, "hidden": 0, "since": 0, "reached": None, "now": 0}
    return {"days": names, "series": list(series), **about}


def series(name: str | None, *usd: float, requests: int = 100, others: bool = False) -> dict[str, Any]:
    """What a DAG cost on each day; on days with a cost it had requests."""
    counts = [requests if one else 0 for one in usd]
    return {"name": name, "usd": usd, "requests": counts, **({"others": True} if others else {})}


def show(page: BatchesPage, answer: dict[str, Any], theme: str = "light", **params: str) -> Locator:
    """The chart, with this answer of the server."""

    def fulfil(route: Route) -> None:
        route.fulfill(json=answer)

    page.page.route(ROUTE, fulfil)
    page.open_in(theme, **params)
    page.frame.locator("#costs summary").click()
    expect(page.frame.locator("#costs tfoot")).to_be_visible()
    return page.frame.locator("#chart")


def heights(chart: Locator, name: str) -> list[float]:
    """The bars of a series, from the first day to the last."""
    found: list[float] = chart.locator(f"rect.{name}").evaluate_all(
        "bars => bars.map(bar => Number(bar.getAttribute('height')))"
    )
    return found


def test_a_month_of_an_account(page: BatchesPage) -> None:
    """The server's own days: a bar for each day, stacked by DAG, above the table that has the same sums."""
    page.open_in(conn_id="month")
    page.frame.locator("#costs summary").click()
    chart = page.frame.locator("#chart")
    page.frame.locator("#costs-hours").select_option("720")
    expect(chart.locator("rect.s0")).to_have_count(28, timeout=20 * SECONDS)
    expect(chart.locator("rect.series")).to_have_count(3 * 28)
    expect(chart.locator(".legend")).to_contain_text("nightly_summaries")
    expect(page.frame.locator("#costs tbody tr")).to_have_count(3)
    chart.locator("rect.s0").nth(20).hover()
    page.picture("batches-chart.png")
    page.frame.locator("#costs-by").select_option("model")
    expect(chart.locator(".legend")).to_contain_text("text-embedding-3-large")
    expect(chart.get_by_role("img")).to_have_accessible_name("Cost by day (UTC) and model")


def test_the_bars(page: BatchesPage) -> None:
    """Their heights are the costs; requests take their place; each has a title."""
    chart = show(page, days(series("large", 10, 20, 0), series("small", 5, 0, 0)))
    [first, second] = heights(chart, "s0")
    assert second == pytest.approx(2 * first)
    assert heights(chart, "s1") == [pytest.approx(first / 2)]
    titles = chart.locator("rect.series title").all_text_contents()
    assert titles == ["large, 24 Nov: $10.00", "small, 24 Nov: $5.00", "large, 25 Nov: $20.00"]
    expect(chart.locator("text", has_text="$20")).to_have_count(1)
    chart.get_by_role("button", name="Requests").click()
    expect(chart.get_by_role("button", name="Requests")).to_have_attribute("aria-pressed", "true")
    expect(chart.get_by_role("img")).to_have_accessible_name("Requests by day (UTC) and DAG")
    assert chart.locator("rect.s0 title").first.text_content() == "large, 24 Nov: 100"
    assert heights(chart, "s0")[0] == heights(chart, "s1")[0]


def test_the_chart_in_words(page: BatchesPage) -> None:
    """The picture has a name and a description; a key tells each day's figures, and so does the mouse."""
    chart = show(
        page, days(series("large", 10, 20, 1), series(None, 5, 0, 0), series(None, 1, 0, 0, others=True))
    )
    picture = chart.get_by_role("img")
    expect(picture).to_have_accessible_name("Cost by day (UTC) and DAG")
    expect(picture).to_have_accessible_description(
        "3 days, from Tuesday 24 November 2026 to Thursday 26 November 2026. In all $37.00; the most on "
        "25 Nov: $20.00. The table below has the sums; by day, it has each day's."
    )
    slider = chart.get_by_role("slider", name="Day")
    expect(chart.locator(".figures")).to_have_text("Thursday 26 November 2026 $1.00")
    slider.press("Home")
    expect(chart.locator(".figures")).to_have_text("Tuesday 24 November 2026 $16.00")
    expect(slider).to_have_attribute(
        "aria-valuetext",
        "Tuesday 24 November 2026: $16.00; large $10.00; not made by a DAG $5.00; all others $1.00",
    )
    expect(chart.locator(".legend li")).to_have_text(
        ["large$10.00", "not made by a DAG$5.00", "all others$1.00"]
    )
    chart.locator("rect.s0").nth(1).hover()
    expect(chart.locator(".figures")).to_have_text("Wednesday 25 November 2026 $20.00")
    expect(slider).to_have_value("1")
    asked = []
    page.page.on(
        "request", lambda request: asked.append(request.url) if "/api/costs" in request.url else None
    )
    slider.press("ArrowRight")
    expect(slider).to_have_value("2")
    assert asked == []


def test_a_cost_that_is_not_all(page: BatchesPage) -> None:
    """It is marked; a day of which nothing is known is not said to be free, and one without batches is."""
    unpriced = {"name": "odd", "usd": [0, 2, 0], "requests": [50, 50, 0]}
    chart = show(page, days(unpriced, is_known=False))
    expect(chart.locator(".figures")).to_have_text("Wednesday 25 November 2026 ≥ $2.00")
    chart.get_by_role("slider").press("End")
    expect(chart.locator(".figures")).to_have_text("Thursday 26 November 2026 $0.00")
    chart.get_by_role("slider").press("Home")
    expect(chart.locator(".figures")).to_have_text("Tuesday 24 November 2026 unknown")
    expect(chart).to_contain_text("≥: the cost of some batches is unknown, and not in the bars.")
    chart.get_by_role("button", name="Requests").click()
    expect(chart).not_to_contain_text("≥")


def test_no_price_at_all(page: BatchesPage) -> None:
    """A sentence takes the place of the bars; the requests are there."""
    chart = show(page, days({"name": "odd", "usd": [0, 0], "requests": [5, 7]}, is_known=False))
    expect(chart).to_contain_text("No cost is known.")
    expect(chart.get_by_role("img")).to_have_count(0)
    chart.get_by_role("button", name="Requests").click()
    expect(chart.locator("rect.s0")).to_have_count(2)


def test_nothing_and_one_day(page: BatchesPage) -> None:
    """Without batches there is no chart; with one day there is nothing to slide to."""
    expect(show(page, days())).to_be_hidden()
    chart = show(page, days(series("only", 3)))
    expect(chart.locator("rect.series")).to_have_count(1)
    expect(chart.get_by_role("slider")).to_be_hidden()
    expect(chart.locator(".figures")).to_have_text("Thursday 26 November 2026 $3.00")


def test_a_very_large_day(page: BatchesPage) -> None:
    """Small days beside it are still seen, and days without a cost have no bar."""
    chart = show(page, days(series("a", 0.01, 0, 5_000, 0.02), series("b", 0.04, 0, 0.01, 0)))
    assert heights(chart, "s0")[-1] == 2
    expect(chart.locator("rect.series")).to_have_count(4)
    assert all(height <= 190 for height in heights(chart, "series"))


def test_thirty_days_in_a_narrow_window(page: BatchesPage) -> None:
    """Nothing is cut off, the labels do not touch, and the drawing follows the window."""
    page.page.set_viewport_size({"width": 400, "height": 800})
    chart = show(page, days(*(series(f"dag_{number}", *range(1, 31)) for number in range(9))))
    expect(chart.locator("rect.series")).to_have_count(9 * 30)
    frame = page.document
    assert frame.evaluate("document.documentElement.scrollWidth <= innerWidth")
    edges = chart.locator("text[text-anchor=middle]").evaluate_all(
        "texts => texts.map(text => text.getBoundingClientRect()).map(({ left, right }) => [left, right])"
    )
    assert all(right < left for (_, right), (left, _) in pairwise(edges))
    assert edges[-1][1] <= frame.evaluate("document.querySelector('.plot').getBoundingClientRect().right")
    narrow = chart.locator("svg").get_attribute("viewBox")
    page.page.set_viewport_size({"width": 1200, "height": 800})
    expect(chart.locator("svg")).not_to_have_attribute("viewBox", narrow or "")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours(page: BatchesPage, theme: str) -> None:
    """Each is seen on the ground, and neighbours differ in lightness too; in the legend they are the same."""
    show(page, days(*(series(f"dag_{number}", 1) for number in range(9))), theme)
    colours = [
        page.document.evaluate(f"getComputedStyle(document.querySelector('rect.s{number}')).fill")
        for number in range(9)
    ]
    swatches = [
        page.document.evaluate(
            f"getComputedStyle(document.querySelector('.swatch.s{number}')).backgroundColor"
        )
        for number in range(9)
    ]
    ground = page.document.evaluate("getComputedStyle(document.body).backgroundColor")
    assert swatches == colours
    assert all(contrast(page, colour, ground) >= 3 for colour in colours)
    neighbours = pairwise(colours)
    assert all(contrast(page, one, next_) >= 1.5 for one, next_ in neighbours)


def test_hostile_names(page: BatchesPage) -> None:
    """They are shown as text."""
    chart = show(page, days(series(EVIL, 10, 20), series("x" * 500, 1, 1)))
    expect(chart.locator(".legend bdi").first).to_have_text(EVIL)
    assert page.document.evaluate("document.querySelectorAll('#chart img').length") == 0
    assert page.document.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.page.evaluate("window.broken") is None


def test_days_that_cannot_be_had(page: BatchesPage) -> None:
    """The sums are there all the same."""
    page.expected = (*page.expected, "429")
    page.page.route(
        ROUTE,
        lambda route: route.fulfill(status=429, json={"detail": "Try again in 5 s."}),
    )
    page.open_in()
    page.frame.locator("#costs summary").click()
    expect(page.frame.locator("#costs tfoot")).to_be_visible()
    expect(page.frame.locator("#costs").get_by_role("alert")).to_have_text("Try again in 5 s.")
    expect(page.frame.locator("#chart")).to_be_hidden()


def test_another_connection_has_another_chart(page: BatchesPage, ids: Ids) -> None:
    """The bars of the one before do not stay."""
    chart = show(page, days(series("large", 10, 20)), conn_id="month")
    expect(chart).to_be_visible()
    page.page.unroute(ROUTE)
    page.page.route(ROUTE, lambda route: route.fulfill(json=days()))
    page.frame.locator("#connection").select_option("openai_batches_default")
    expect(page.frame.locator("#costs tfoot")).to_contain_text("≥ $")
    expect(chart).to_be_hidden()


def test_the_table_scrolls_by_keys(page: BatchesPage) -> None:
    """Where the window is too narrow for it."""
    page.page.set_viewport_size({"width": 400, "height": 800})
    show(page, days(series("large", 10)))
    region = page.frame.get_by_role("region", name="Sums of costs")
    region.focus()
    page.page.keyboard.press("ArrowRight")
    until(lambda: page.document.evaluate("document.querySelector('.wide').scrollLeft > 0"))
    expect(region.locator("td.number").first).to_have_text(re.compile(r"^\d+$"))


def test_the_service_is_asked_for_nothing_more(page: BatchesPage, account: Account) -> None:
    """Table and chart are made from the same pages of the list."""
    server, conn_id = account
    server.force(scene.create(server), status="completed")
    page.open_in(conn_id=conn_id)
    expect(page.rows).to_have_count(1)
    page.page.wait_for_timeout(5 * SECONDS)  # until the server's cache has forgotten the list
    before = server.stats()["requests"]["list_batches"]
    page.frame.locator("#costs summary").click()
    expect(page.frame.locator("#costs tfoot")).to_be_visible()
    assert server.stats()["requests"]["list_batches"] == before + 1
