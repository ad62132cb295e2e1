"""The page in a real browser and a real Airflow, with real servers behind it."""

from __future__ import annotations

import re
import sys
import time
from typing import TYPE_CHECKING

import pytest
import scene
from playwright.sync_api import expect

if TYPE_CHECKING:
    from airflow_stack import AirflowStack
    from page import Account, BatchesPage
    from playwright.sync_api import Browser, Route

    from airflow_provider_openai_batches.devserver import DevServer

    Ids = dict[str, str]

SECONDS = 1_000
EVIL = '<script>window.top.broken = 1</script><img src=x onerror="window.top.broken = 1">\'"\u202e'


def test_the_list(page: BatchesPage, ids: Ids) -> None:
    """Every batch of the account is there, newest first, with its progress and origin."""
    page.open()
    expect(page.rows).to_have_count(len(ids))
    newest_first = page.rows.evaluate_all("rows => rows.map(row => row.dataset.id)")
    assert newest_first == list(reversed(ids.values()))
    expect(page.cell(ids["running"], "status")).to_have_text("in progress")
    expect(page.cell(ids["running"], "progress")).to_have_text("13,420 of 20,000 · 17 failed")
    expect(page.cell(ids["running"], "time")).to_have_text(re.compile("≈ ([45][0-9] min|1 h)"))
    expect(page.cell(ids["embedded"], "model")).to_have_text("text-embedding-3-large/v1/embeddings")
    expect(page.cell(ids["embedded"], "tokens")).to_have_text("9.6M$0.63")
    expect(page.cell(ids["embedded"], "age")).to_have_text("1 d")
    expect(page.cell(ids["partly"], "origin")).to_contain_text("classify_reviews")
    expect(page.cell(ids["partly"], "origin")).to_contain_text("classify [0]")
    expect(page.frame.locator("#totals")).to_contain_text("Requests failed55")


def test_it_is_in_the_browse_menu(page: BatchesPage, airflow: AirflowStack) -> None:
    """Users find the page in Airflow's own menu."""
    page.page.goto(airflow.url)
    page.page.get_by_role("button", name="Browse").click()
    page.page.get_by_role("menuitem", name="OpenAI Batches").click()
    expect(page.frame.locator("h1")).to_have_text("OpenAI Batches")
    expect(page.rows.first).to_be_visible()


def test_filters(page: BatchesPage, ids: Ids) -> None:
    """Status, DAG and text narrow the rows and the totals; the address keeps them."""
    page.open()
    expect(page.rows).to_have_count(len(ids))
    page.chip("failed").click()
    expect(page.rows).to_have_count(1)
    expect(page.row(ids["invalid"])).to_be_visible()
    page.chip("all").click()
    page.frame.locator("#dag").select_option("nightly_summaries")
    expect(page.rows).to_have_count(3)
    expect(page.frame.locator("#totals")).to_contain_text("Batches3")
    page.frame.locator("#text").fill("GPT-5 running nothing")
    expect(page.notice).to_contain_text("Nothing matches")
    page.frame.get_by_role("button", name="Clear the filter").click()
    expect(page.rows).to_have_count(len(ids))
    page.frame.locator("#text").fill("classify mini")
    expect(page.rows).to_have_count(5)
    expect(page.page).to_have_url(re.compile(r"/plugin/openai-batches\S*text=classify%20mini"))
    page.page.reload()
    expect(page.rows).to_have_count(5)
    expect(page.frame.locator("#text")).to_have_value("classify mini")


def test_details(page: BatchesPage, ids: Ids) -> None:
    """A row opens to its times, failed requests, files with sizes, tokens and the user's metadata."""
    page.open()
    page.row(ids["partly"]).click()
    panel = page.panel
    expect(panel).to_contain_text("First failed requests (3 of 38)")
    expect(panel).to_contain_text("row-0: HTTP 400")
    expect(panel.locator("table")).to_contain_text("requests.jsonl")
    expect(panel.locator("table td.number").first).to_have_text(re.compile(r"^[\d.]+ (B|kB)$"))
    expect(panel).to_contain_text("1,200,000 cached")
    expect(panel).to_contain_text("s3://reviews/part-0.jsonl")
    expect(panel).not_to_contain_text("airflow_key")
    page.picture("batches-details.png")
    page.page.keyboard.press("Escape")
    expect(panel).to_have_count(0)
    page.row(ids["invalid"]).click()
    expect(panel).to_contain_text("invalid_json_line line 17")
    expect(panel).to_contain_text("This line is not parseable as valid JSON.")


def test_links_lead_into_airflow(page: BatchesPage, ids: Ids) -> None:
    """They lead out of the frame, to the DAG, run or task."""
    page.open()
    page.cell(ids["running"], "origin").get_by_text("nightly_summaries").click()
    page.page.wait_for_url("**/dags/nightly_summaries")
    page.open()
    page.cell(ids["partly"], "origin").get_by_text("classify [0]").click()
    page.page.wait_for_url(re.compile(r"/dags/classify_reviews/runs/scheduled__.+/tasks/classify/mapped/0"))
    page.open()
    with page.page.expect_popup() as popup:
        page.cell(ids["running"], "origin").get_by_text("nightly_summaries").click(modifiers=["Control"])
    popup.value.wait_for_url("**/dags/nightly_summaries")
    popup.value.close()


def test_live_to_completion(page: BatchesPage, airflow: AirflowStack, services: dict[str, DevServer]) -> None:
    """The tab of a run shows how its batch is created, progresses and completes, without a reload."""
    services["live"].settings(freeze=True)
    run_id = airflow.trigger("ask")
    assert "+" in run_id
    page.page.goto(f"{airflow.url}/dags/ask/runs/{run_id}")
    page.page.get_by_role("link", name="OpenAI Batches").click()
    expect(page.frame.locator("h1")).to_have_text("OpenAI batches of this run", timeout=30 * SECONDS)
    expect(page.notice).to_contain_text("No batches of this run")
    page.open_run("ask", run_id, conn_id="live")
    page.page.evaluate("window.notReloaded = true")
    expect(page.frame.locator("h1")).to_have_text("OpenAI batches of this run")
    deadline = time.monotonic() + 60
    while page.rows.count() == 0 and time.monotonic() < deadline:
        page.frame.locator("#refresh").click()
        page.page.wait_for_timeout(250)
    expect(page.rows).to_have_count(1)
    expect(page.frame.locator("#freshness")).to_have_text("Live, every 5 s")
    status = page.rows.locator(".cell.status")
    expect(status).to_have_text(re.compile("validating|in progress"))
    services["live"].settings(freeze=False)
    expect(status).to_have_text("completed", timeout=40 * SECONDS)
    expect(page.rows.locator(".cell.progress")).to_have_text("40 of 40")
    expect(page.frame.locator("#freshness")).to_have_text("Nothing is running")
    assert page.page.evaluate("window.notReloaded")
    assert airflow.wait_for_run("ask", run_id) == "success"


def test_cancel(page: BatchesPage, account: Account) -> None:
    """A question comes first; then the row changes, and the service was asked once."""
    server, conn_id = account
    batch_id = scene.create(server, metadata=scene.made_by("classify_reviews", "r", "classify"))
    page.open(conn_id=conn_id)
    question = page.frame.locator("#question[open]")
    page.cell(batch_id, "actions").get_by_role("button", name="Cancel").click()
    expect(question).to_contain_text("Cancel this batch?")
    question.get_by_role("button", name="Keep it running").click()
    expect(question).to_have_count(0)
    assert "cancel_batch" not in server.stats()["requests"]
    page.row(batch_id).click()
    page.panel.get_by_role("button", name="Cancel batch").click()
    question.get_by_role("button", name="Cancel the batch").click()
    expect(question).to_have_count(0)
    expect(page.panel.locator(".badge")).to_have_text("cancelling")
    page.page.keyboard.press("Escape")
    expect(page.cell(batch_id, "status")).to_have_text("cancelling")
    expect(page.cell(batch_id, "actions").locator("button")).to_have_count(0)
    assert server.stats()["requests"]["cancel_batch"] == 1


def test_cancel_that_comes_too_late(page: BatchesPage, account: Account) -> None:
    """The question stays open and says so."""
    server, conn_id = account
    batch_id = scene.create(server, metadata=scene.made_by("classify_reviews", "r", "classify"))
    page.open(conn_id=conn_id)
    page.expected = (*page.expected, "409")
    page.cell(batch_id, "actions").get_by_role("button", name="Cancel").click()
    server.force(batch_id, status="completed")
    question = page.frame.locator("#question[open]")
    question.get_by_role("button", name="Cancel the batch").click()
    expect(question.get_by_role("alert")).to_contain_text("is completed: there is nothing left to cancel")


def test_a_slow_cancel_leaves_the_next_question_alone(page: BatchesPage, account: Account) -> None:
    """It was closed with Escape, and another question was asked before the answer came."""
    server, conn_id = account
    slow, other = (scene.create(server, metadata=scene.made_by("classify_reviews", "r", one)) for one in "ab")
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.page.route("**/openai-batches/api/batches/*/cancel?*", hold)
    page.open(conn_id=conn_id)
    question = page.frame.locator("#question[open]")
    page.cell(slow, "actions").get_by_role("button", name="Cancel").click()
    with page.page.expect_request("**/cancel?*"):
        question.get_by_role("button", name="Cancel the batch").click()
    page.page.keyboard.press("Escape")
    expect(question).to_have_count(0)
    page.cell(other, "actions").get_by_role("button", name="Cancel").click()
    expect(question).to_contain_text(other)
    held[0].continue_()
    expect(page.cell(slow, "status")).to_have_text("cancelling")
    expect(question).to_contain_text(other)


def test_hostile_metadata(page: BatchesPage, account: Account) -> None:
    """Markup, quotes, another writing direction and long texts are shown as plain text."""
    server, conn_id = account
    metadata = {**scene.made_by(EVIL, EVIL, EVIL), EVIL[:64]: EVIL, "long": "x" * 512, "rtl": "\u202eabc"}
    batch_id = scene.create(server, model=EVIL, metadata=metadata)
    server.force(
        batch_id,
        errors={"data": [{"code": EVIL, "message": EVIL * 20, "line": 1, "param": EVIL}]},
        model=EVIL,
    )
    page.open(conn_id=conn_id)
    expect(page.cell(batch_id, "origin").locator("bdi").first).to_have_text(EVIL)
    expect(page.frame.locator("#dag option").last).to_have_text(EVIL)
    page.row(batch_id).locator(".open").click()
    expect(page.panel).to_contain_text("window.top.broken")
    expect(page.panel).to_contain_text("x" * 512)
    frame = page.document
    assert frame.evaluate("document.querySelectorAll('main script, dialog script, img').length") == 0
    assert page.page.evaluate("window.broken") is None
    width = frame.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1]


def test_an_empty_account(page: BatchesPage) -> None:
    """The page says that there is nothing, and what would be here."""
    page.open(conn_id="empty")
    expect(page.notice).to_contain_text("No batches yet")
    expect(page.frame.locator("#batches")).to_be_hidden()


def test_a_dead_service(page: BatchesPage) -> None:
    """There is a sentence and a button instead of a blank page."""
    page.expected = (*page.expected, "503")
    page.open(conn_id="dead")
    expect(page.notice).to_contain_text("The host of connection 'dead' cannot be reached.")
    expect(page.notice.get_by_role("button", name="Try again")).to_be_visible()


def test_a_service_that_dies_meanwhile(page: BatchesPage, account: Account) -> None:
    """The rows stay, the page says that they are old, and it recovers by itself."""
    server, conn_id = account
    batch_id = scene.create(server)
    page.expected = (*page.expected, "503", "502")
    page.open(conn_id=conn_id)
    expect(page.row(batch_id)).to_be_visible()
    server.stop()
    expect(page.notice).to_contain_text("Not up to date", timeout=20 * SECONDS)
    expect(page.row(batch_id)).to_be_visible()
    server.start()
    expect(page.notice).to_be_hidden(timeout=30 * SECONDS)


def test_a_wrong_key(page: BatchesPage, account: Account) -> None:
    """The page says which connection's key is refused."""
    server, conn_id = account
    server.settings(api_keys=["another"])
    page.expected = (*page.expected, "502")
    page.open(conn_id=conn_id)
    expect(page.notice).to_contain_text(f"refuses the API key of connection '{conn_id}'")


def test_too_many_requests(page: BatchesPage) -> None:
    """The page says so, and asks again when it may."""
    page.expected = (*page.expected, "429")
    answer = {"status": 429, "headers": {"Retry-After": "5"}, "json": {"detail": "Try again in 5 s."}}
    page.page.route("**/openai-batches/api/batches?*", lambda route: route.fulfill(**answer), times=1)
    page.open()
    expect(page.notice).to_contain_text("Try again in 5 s.")
    expect(page.rows.first).to_be_visible(timeout=30 * SECONDS)


def test_an_unknown_connection(page: BatchesPage) -> None:
    """The page says so, and another one can be chosen."""
    page.expected = (*page.expected, "404")
    page.open(conn_id="nope")
    expect(page.notice).to_contain_text("There is no connection 'nope'")
    page.frame.locator("#connection").select_option("openai_batches_default")
    expect(page.rows.first).to_be_visible()


@pytest.mark.long
def test_ten_thousand(page: BatchesPage, capsys: pytest.CaptureFixture[str]) -> None:
    """The first rows are there at once, all can be reached, and the page stays fast with all of them."""
    page.open(conn_id="large")
    expect(page.rows.first).to_be_visible()
    paint, rows = page.first_shown()
    page.scroll_to(10_000)
    expect(page.rows).to_have_count(10_000)
    expect(page.frame.locator("#more")).to_be_hidden()
    spent = page.filter_all()
    said = f"10,000 batches: first paint {paint:.0f} ms, rows {rows:.0f} ms, filtering all {spent:.0f} ms"
    with capsys.disabled():
        sys.stdout.write(f"\n{said}\n")
    assert paint < 3_000
    assert rows < 5_000
    assert spent < 3_000


def test_keyboard(page: BatchesPage, ids: Ids) -> None:
    """A key opens the search, arrows move, Enter opens a row, and Escape returns to it."""
    page.open()
    expect(page.rows).to_have_count(len(ids))
    page.frame.locator("h1").click()
    page.page.keyboard.press("Control+/")
    page.page.keyboard.type("nightly")
    expect(page.rows).to_have_count(3)
    page.rows.first.locator(".open").focus()
    page.page.keyboard.press("ArrowDown")
    page.page.keyboard.press("Enter")
    expect(page.panel.locator("h2")).to_have_text(ids["cancelled"])
    page.page.keyboard.press("Escape")
    expect(page.row(ids["cancelled"]).locator(".open")).to_be_focused()


def test_a_narrow_window(page: BatchesPage, ids: Ids) -> None:
    """On a phone nothing is cut off at the side."""
    page.page.set_viewport_size({"width": 400, "height": 800})
    page.open()
    expect(page.rows).to_have_count(len(ids))
    frame = page.document
    assert frame.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.rows.first.locator(".open").click()
    expect(page.panel).to_contain_text("Times")
    assert frame.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_it_follows_airflows_mode(page: BatchesPage, ids: Ids) -> None:
    """The page has Airflow's light or dark colours, and changes with them at once."""
    page.open()
    expect(page.rows).to_have_count(len(ids))
    frame = page.document
    inside = "getComputedStyle(document.body).backgroundColor"
    outside = "getComputedStyle(document.documentElement).backgroundColor"
    assert frame.evaluate("document.documentElement.dataset.theme") == "light"
    assert frame.evaluate(inside) == page.page.evaluate(outside)
    page.picture("batches-light.png")
    page.page.evaluate("document.documentElement.classList.replace('light', 'dark')")
    expect(page.frame.locator("html")).to_have_attribute("data-theme", "dark")
    page.page.evaluate("localStorage.setItem('theme', 'dark')")
    page.page.reload()
    expect(page.rows).to_have_count(len(ids))
    frame = page.document
    assert frame.evaluate("document.documentElement.dataset.theme") == "dark"
    assert frame.evaluate(inside) == page.page.evaluate(outside)
    page.picture("batches-dark.png")


def test_complaints_are_heard(page: BatchesPage, ids: Ids) -> None:
    """What the page does wrong is told from what Airflow's own scripts say."""
    page.open()
    expect(page.rows).to_have_count(len(ids))
    page.page.evaluate("fetch('/api/v2/no/such/thing')")
    page.document.evaluate("fetch('api/no/such/thing')")
    page.document.evaluate("document.body.setAttribute('style', 'color: red')")
    with page.page.expect_console_message(lambda message: message.text == "the last one"):
        page.document.evaluate("setTimeout(() => console.log('the last one'), 1000)")
    assert len(page.complaints) == 2
    page.complaints.clear()


def test_no_login_no_page(browser: Browser, airflow: AirflowStack) -> None:
    """The frame's own address does not bypass Airflow's login."""
    answer = browser.new_context(extra_http_headers={"Authorization": "Bearer nonsense"}).request.get(
        f"{airflow.url}/openai-batches/api/batches?conn_id=openai_batches_default"
    )
    assert answer.status in {401, 403}
    assert "batches" not in answer.json()
