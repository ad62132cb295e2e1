"""Times stand in the zone that the user chose in Airflow."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest
import scene
from page import AIRFLOW, BatchesPage
from playwright.sync_api import expect

if TYPE_CHECKING:
    from airflow_stack import AirflowStack
    from page import Account
    from playwright.sync_api import Browser, BrowserContext, Page, StorageState

pytestmark = pytest.mark.long
CREATED = 1_795_000_000
KOLKATA = "Asia/Kolkata"


def written(zone: str) -> str:
    """When the batch was created, as the page says it."""
    return datetime.fromtimestamp(CREATED, ZoneInfo(zone)).strftime("%-d %b %Y, %H:%M:%S")


@pytest.fixture
def batch_id(account: Account) -> str:
    batch_id = scene.create(account.server)
    account.server.force(batch_id, created_at=CREATED, expires_at=CREATED + 86_400)
    return batch_id


def choose(page: Page, zone: str) -> None:
    """As Airflow's own menu does it: the setting is kept in the browser."""
    page.evaluate("zone => localStorage.setItem('timezone', JSON.stringify(zone))", zone)


def test_airflows_own_menu(page: BatchesPage, account: Account, batch_id: str) -> None:
    """The zone that is chosen there is the page's at once."""
    page.open(conn_id=account.conn_id)
    page.row(batch_id).click()
    expect(page.panel).to_contain_text(f"{written('UTC')} UTC")
    page.page.keyboard.press("Escape")
    expect(page.panel).to_have_count(0)
    if AIRFLOW.release[:2] > (3, 1):
        page.page.get_by_role("button", name="+00:00").click()
    else:
        page.page.get_by_role("button", name="User").click()
        page.page.get_by_role("menuitem", name="Timezone").click()
    page.page.get_by_role("dialog").get_by_role("combobox").fill("Tokyo")
    page.page.keyboard.press("Enter")
    page.page.get_by_role("button", name="Close").click()
    assert page.page.evaluate("JSON.parse(localStorage.getItem('timezone'))") == "Asia/Tokyo"
    there = f"{written('Asia/Tokyo')} GMT+9"
    expect(page.cell(batch_id, "age").locator("time")).to_have_attribute("title", there)
    page.row(batch_id).click()
    expect(page.panel).to_contain_text(there)


def test_it_follows_while_a_panel_is_open(page: BatchesPage, account: Account, batch_id: str) -> None:
    """UTC is the title of each time."""
    page.open(conn_id=account.conn_id)
    page.row(batch_id).click()
    time = page.panel.locator("time").first
    expect(time).to_have_text(f"{written('UTC')} UTC")
    choose(page.page, KOLKATA)
    expect(time).to_have_text(f"{written(KOLKATA)} GMT+5:30")
    expect(time).to_have_attribute("title", f"{written('UTC')} UTC")
    page.page.evaluate("localStorage.removeItem('timezone')")
    expect(time).to_have_text(f"{written('UTC')} UTC")


def test_the_browsers_zone(
    browser: Browser, login: StorageState, airflow: AirflowStack, account: Account, batch_id: str
) -> None:
    """Until one is chosen, as in Airflow."""
    context: BrowserContext = browser.new_context(storage_state=login, timezone_id="America/New_York")
    page = BatchesPage(context.new_page(), airflow.url)
    page.open(conn_id=account.conn_id)
    page.row(batch_id).click()
    expect(page.panel).to_contain_text(f"{written('America/New_York')} GMT-5")
    context.close()


def test_outside_airflow(page: BatchesPage, context: BrowserContext, account: Account, batch_id: str) -> None:
    """Open by itself, the page has the same setting, and follows another tab."""
    alone = page.page
    alone.goto(f"{page.home}?view=batches&conn_id={account.conn_id}")
    alone.locator(f'[data-id="{batch_id}"] .open').click()
    expect(alone.locator("#panel")).to_contain_text(f"{written('UTC')} UTC")
    other = context.new_page()
    other.goto(page.url)
    choose(other, KOLKATA)
    expect(alone.locator("#panel")).to_contain_text(f"{written(KOLKATA)} GMT+5:30")


@pytest.mark.parametrize("kept", ["not JSON", json.dumps("Nowhere/Town"), json.dumps({"a": 1}), "null"])
def test_a_setting_that_means_nothing(page: BatchesPage, account: Account, batch_id: str, kept: str) -> None:
    """Then the browser's zone is taken."""
    page.page.goto(page.home)
    page.page.evaluate("kept => localStorage.setItem('timezone', kept)", kept)
    page.page.goto(f"{page.home}?view=batches&conn_id={account.conn_id}")
    page.page.locator(f'[data-id="{batch_id}"] .open').click()
    expect(page.page.locator("#panel")).to_contain_text(f"{written('UTC')} UTC")


def test_a_time_that_no_calendar_has(page: BatchesPage, account: Account, batch_id: str) -> None:
    """The rest of the page is there."""
    account.server.force(batch_id, in_progress_at=10**15)
    page.open(conn_id=account.conn_id)
    page.row(batch_id).click()
    expect(page.panel).to_contain_text(f"{written('UTC')} UTC")
