"""What batches cost, on the page in a real browser."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import scene
from playwright.sync_api import expect
from support import until

if TYPE_CHECKING:
    from page import Account, BatchesPage
    from playwright.sync_api import Locator

    Ids = dict[str, str]

EVIL = '<img src=x onerror="window.top.broken = 1">'


def panel(page: BatchesPage) -> Locator:
    """The panel, opened."""
    page.frame.locator("#costs summary").click()
    return page.frame.locator("#costs")


def lines(costs: Locator) -> list[list[str]]:
    """The cells of the table, without its heads."""
    expect(costs.locator("tfoot")).to_be_visible()
    cells: list[list[str]] = costs.locator("tbody tr, tfoot tr").evaluate_all(
        "lines => lines.map(line => [...line.children].map(cell => cell.textContent))"
    )
    return cells


def test_each_batch_says_what_it_cost(page: BatchesPage, ids: Ids) -> None:
    """In its row and its details; a model without a price is said to have none."""
    page.open()
    # 9,640,118 x 0.13 / 2, and (2,202,118 x 0.25 + 1,200,000 x 0.025 + 604,210 x 2) / 2
    expect(page.cell(ids["embedded"], "tokens")).to_have_text("9.6M$0.63")
    expect(page.cell(ids["partly"], "tokens")).to_contain_text("$0.89")
    expect(page.cell(ids["foreign"], "tokens")).to_contain_text("no price")
    expect(page.cell(ids["running"], "tokens")).not_to_contain_text("price")
    page.row(ids["partly"]).click()
    expect(page.panel).to_contain_text("Cost$0.89")
    page.page.keyboard.press("Escape")
    page.row(ids["foreign"]).click()
    expect(page.panel).to_contain_text("the model has no price. Enter one in the connection")


def test_the_sum(page: BatchesPage, ids: Ids) -> None:
    """By DAG, model and a key of metadata, of a day or longer, with what is missing."""
    page.open()
    expect(page.rows).to_have_count(len(ids))
    costs = panel(page)
    costs.locator("#costs-hours").select_option("168")
    expect(costs.locator("tfoot")).to_contain_text("11")
    assert lines(costs)[0][0] == "nightly_summaries"
    assert lines(costs)[-1][:2] == ["Total", "11"]
    expect(costs).to_contain_text("No price: gpt-5-nano.")
    expect(costs).to_contain_text("4 batches still running")
    expect(costs.locator("tfoot")).to_contain_text("≥ $")
    page.picture("batches-costs.png")
    costs.locator("#costs-by").select_option(label="model")
    expect(costs.locator("thead")).to_contain_text("Model")
    expect(costs.locator("tbody")).to_contain_text("text-embedding-3-large")
    costs.locator("#costs-by").select_option(label="a key of metadata")
    expect(costs).to_contain_text("Enter a key of your batches' metadata, such as team.")
    costs.locator("#costs-key").fill("team")
    costs.locator("#costs-key").press("Enter")
    expect(costs.locator("thead")).to_contain_text("team")
    expect(costs.locator("tbody")).to_contain_text("search")


def test_hostile_metadata_in_the_sum(page: BatchesPage, account: Account) -> None:
    """It is shown as text."""
    batch_id = scene.create(account.server, metadata={"team": EVIL})
    account.server.settings(freeze=False)
    until(lambda: account.server.batches()[0]["status"] == "completed")
    account.server.force(batch_id, created_at=int(time.time()), model=EVIL)
    page.open(conn_id=account.conn_id)
    costs = panel(page)
    costs.locator("#costs-by").select_option(label="a key of metadata")
    costs.locator("#costs-key").fill("team")
    costs.locator("#costs-key").press("Enter")
    expect(costs.locator("tbody")).to_contain_text("<img src=x")
    expect(costs).to_contain_text(f"No price: {EVIL}")
    assert page.page.evaluate("window.broken") is None


def test_an_empty_account_and_a_dead_service(page: BatchesPage) -> None:
    """A sentence instead of a table."""
    page.open(conn_id="empty")
    expect(panel(page)).to_contain_text("No batches in this time.")
    page.expected = (*page.expected, "503")
    page.open(conn_id="dead")
    expect(panel(page).locator(".amiss")).to_contain_text("cannot be reached")


def test_another_connection_is_another_sum(page: BatchesPage, ids: Ids) -> None:
    """The panel follows the choice above it."""
    page.open(conn_id="empty")
    costs = panel(page)
    expect(costs).to_contain_text("No batches in this time.")
    page.frame.locator("#connection").select_option("openai_batches_default")
    expect(page.rows).to_have_count(len(ids))
    expect(costs.locator("tfoot")).to_contain_text("Total")
