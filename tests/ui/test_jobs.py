"""Jobs on the page, in a real browser and a real Airflow: what they wait for, and what became of them."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING
from urllib.parse import quote, urljoin

import pytest
import scene
from playwright.sync_api import expect

if TYPE_CHECKING:
    from airflow_stack import AirflowStack
    from page import Account, BatchesPage
    from playwright.sync_api import Browser, Locator, StorageState

    from airflow_provider_openai_batches.devserver import DevServer

    Ids = dict[str, str]

SECONDS = 1_000
ROUNDS = 3
VIEWERS = 20


@pytest.fixture(scope="session")
def complete(airflow: AirflowStack, services: dict[str, DevServer]) -> str:
    """A run whose job is complete."""
    services["jobs"].settings(freeze=False)
    run_id = airflow.trigger("classify_table")
    assert airflow.wait_for_run("classify_table", run_id) == "success"
    return run_id


def several(server: DevServer, number: int, run_id: str = "run_1", task_id: str = "classify") -> list[str]:
    """Batches of one job, the newest last."""
    metadata = scene.made_by("classify_reviews", run_id, task_id)
    return [scene.create(server, metadata=metadata) for _ in range(number)]


def waiting(page: BatchesPage, run_id: str) -> Locator:
    """The row of a job that waits for room; the page looks every minute while nothing runs."""
    expect(page.frame.locator("h1")).to_be_visible()
    row = page.job(run_id)
    deadline = time.monotonic() + 90
    while row.locator(".status").all_text_contents() != ["waiting for room"]:
        assert time.monotonic() < deadline, row.all_text_contents()
        page.frame.locator("#refresh").click()
        page.page.wait_for_timeout(500)
    return row


def test_batches_of_a_task_are_one_row(page: BatchesPage, account: Account) -> None:
    """It has one bar over all of them; those of another run, task or maker have their own."""
    server, conn_id = account
    first, second, third = several(server, 3)
    several(server, 1, run_id="run_2")
    foreign = scene.create(server, metadata={"team": "search"})
    for batch_id, counts in ((first, (10, 8, 2)), (second, (10, 5, 1)), (third, (10, 0, 0))):
        counted = dict(zip(("total", "completed", "failed"), counts, strict=True))
        server.force(batch_id, status="in_progress", request_counts=counted)
    server.force(first, status="completed")
    page.open(view="jobs", conn_id=conn_id)
    expect(page.job()).to_have_count(3)
    row = page.job("run_1")
    expect(row.locator(".progress")).to_contain_text("13 of 30 · 3 failed")
    expect(row.locator(".batches")).to_have_text("1 of 3")
    expect(row.locator(".status")).to_have_text("running")
    expect(page.job("not made by a DAG").locator(".open")).to_have_text(foreign)
    expect(page.frame.locator("#totals")).to_contain_text("Jobs3")
    row.locator(".open").click()
    opened = page.job_panel
    expect(opened.locator(".batches .open")).to_have_text([third, second, first])
    opened.get_by_role("button", name=first).click()
    expect(page.panel.locator("h2")).to_have_text(first)
    page.page.keyboard.press("Escape")
    expect(page.panel).to_have_count(0)
    expect(opened).to_be_visible()


def test_cancel_what_no_task_made(page: BatchesPage, account: Account) -> None:
    """A batch from elsewhere is cancelled by itself."""
    server, conn_id = account
    foreign = scene.create(server, metadata={"team": "search"})
    page.open(view="jobs", conn_id=conn_id)
    page.job("not made by a DAG").get_by_role("button", name="Cancel").click()
    question = page.frame.locator("#question[open]")
    expect(question).to_contain_text(foreign)
    question.get_by_role("button", name="Cancel the job").click()
    expect(question).to_have_count(0)
    assert [(one["id"], one["status"]) for one in server.batches()] == [(foreign, "cancelling")]


def test_the_switch(page: BatchesPage, ids: Ids) -> None:
    """Jobs come first; batches are one click away, and the address keeps what was chosen."""
    page.open(view="")
    expect(page.job()).to_have_count(len(ids))
    page.picture("jobs.png")
    page.chip("failed").click()
    expect(page.job("expired")).to_have_count(1)
    page.frame.get_by_role("button", name="Batches", exact=True).click()
    expect(page.rows).to_have_count(len(ids))
    expect(page.row(ids["running"])).to_be_visible()
    expect(page.page).to_have_url(re.compile("view=batches"))
    page.page.reload()
    expect(page.row(ids["running"])).to_be_visible()
    page.frame.get_by_role("button", name="Jobs", exact=True).click()
    expect(page.job()).to_have_count(len(ids))


def test_the_time(page: BatchesPage, ids: Ids) -> None:
    """Only what was made lately is shown, and what still runs."""
    page.open(view="jobs")
    expect(page.job()).to_have_count(len(ids))
    page.frame.locator("#hours").select_option("24")
    expect(page.job()).to_have_count(len(ids) - 2)
    page.frame.locator("#hours").select_option("1")
    expect(page.job()).to_have_count(4)
    expect(page.page).to_have_url(re.compile("hours=1"))


@pytest.mark.long
def test_a_job_from_beginning_to_end(
    page: BatchesPage, airflow: AirflowStack, services: dict[str, DevServer]
) -> None:
    """It says what it waits for; and when it is complete, what became of its rows and what they cost."""
    service = services["jobs"]
    service.settings(freeze=True)
    run_id = airflow.trigger("classify_table")
    page.open(view="jobs", conn_id="jobs")
    row = waiting(page, run_id)
    expect(row.locator(".batches")).to_have_text("0 of 3")
    expect(row.locator(".note")).to_contain_text("1 of 3 batches")
    expect(row.locator(".note")).to_contain_text("max_active_batches is 2")
    expect(row.locator(".tokens")).to_contain_text("of ≈ $")
    row.locator(".open").click()
    panel = page.job_panel
    expect(panel).to_contain_text("Rows6")
    expect(panel).to_contain_text("Left6")
    page.picture("job-waiting.png")
    service.settings(freeze=False)
    expect(panel.locator(".head .badge")).to_have_text("complete", timeout=90 * SECONDS)
    expect(panel).to_contain_text("succeeded6")
    expect(panel).to_contain_text("Answered6")
    expect(panel.get_by_role("table", name="Cost by model")).to_contain_text("gpt-5-mini")
    expect(panel).to_contain_text("part-00000.jsonl")
    page.picture("job-complete.png")
    assert airflow.wait_for_run("classify_table", run_id) == "success"


def test_cancel_a_job(page: BatchesPage, airflow: AirflowStack, services: dict[str, DevServer]) -> None:
    """One question; then the task has failed in Airflow, no batch runs, and none is made again."""
    service = services["jobs"]
    service.settings(freeze=True)
    run_id = airflow.trigger("classify_table")
    page.open(view="jobs", conn_id="jobs")
    row = waiting(page, run_id)
    page.expected = (*page.expected, "409")  # the task has to be stopped first
    row.get_by_role("button", name="Cancel").click()
    question = page.frame.locator("#question[open]")
    expect(question).to_contain_text("0 of 6 requests are done")
    expect(question).to_contain_text("Airflow sets it to failed, without a retry")
    question.get_by_role("button", name="Cancel the job").click()
    expect(question).to_have_count(0, timeout=30 * SECONDS)
    assert airflow.wait_for_run("classify_table", run_id) == "failed"
    own = [batch for batch in service.batches() if batch["metadata"]["airflow_run_id"] == run_id]
    assert len(own) == 2
    assert {batch["status"] for batch in own} <= {"cancelling", "cancelled"}
    expect(row.locator(".status")).to_have_text("failed", timeout=30 * SECONDS)
    service.settings(freeze=False)
    time.sleep(ROUNDS)
    assert sum(batch["metadata"]["airflow_run_id"] == run_id for batch in service.batches()) == 2


@pytest.mark.long
def test_from_a_task_to_its_job_and_back(page: BatchesPage, airflow: AirflowStack, complete: str) -> None:
    """A button on the task leads to the job, which links back; tabs of the run and the DAG have it too."""
    run_id = complete
    page.page.goto(f"{airflow.url}/dags/classify_table/runs/{quote(run_id)}/tasks/classify/details")
    button = page.page.get_by_role("link", name="Job on the OpenAI Batches page")
    page.page.goto(urljoin(airflow.url + "/", button.get_attribute("href") or ""))
    expect(page.job_panel.locator("h2")).to_have_text("classify_table · classify")
    expect(page.frame.locator("h1")).to_have_text("OpenAI batches of this job")
    expect(page.job()).to_have_count(1)
    expect(page.job_panel.locator(".batches .open")).to_have_count(3)
    page.job_panel.get_by_role("link", name="classify", exact=True).click()
    page.page.wait_for_url("**/tasks/classify")
    page.page.goto(f"{airflow.url}/dags/classify_table/plugin/openai-batches-dag?conn_id=jobs")
    expect(page.frame.locator("h1")).to_have_text("OpenAI batches of this DAG")
    expect(page.job(run_id)).to_have_count(1)
    page.open_run("classify_table", run_id, conn_id="jobs", view="jobs")
    expect(page.frame.locator("h1")).to_have_text("OpenAI batches of this run")
    expect(page.job()).to_have_count(1)


@pytest.mark.long
def test_a_bug_report(page: BatchesPage, services: dict[str, DevServer], complete: str) -> None:
    """It names versions, the task and each batch, and can be copied; no prompt and no key is in it."""
    run_id = complete
    page.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.open(view="jobs", conn_id="jobs")
    page.job(run_id).locator(".open").click()
    page.job_panel.get_by_role("button", name="Copy for a bug report").click()
    dialog = page.frame.locator("#question[open]")
    text = dialog.locator("textarea").input_value()
    dialog.get_by_role("button", name="Copy", exact=True).click()
    expect(dialog).to_contain_text("Copied.")
    assert page.page.evaluate("navigator.clipboard.readText()") == text
    own = [batch for batch in services["jobs"].batches() if batch["metadata"]["airflow_run_id"] == run_id]
    assert len(own) == 3
    assert all(f"{batch['id']} completed 2+0/2 /v1/chat/completions" in text for batch in own)
    assert f"dag_id=classify_table run_id={run_id} task_id=classify map_index=-1" in text
    assert "task: success, try 1" in text
    assert "apache-airflow 3." in text
    assert "airflow-provider-openai-batches " in text
    assert "secret" not in text
    assert "sk-" not in text
    assert "friendly" not in text


@pytest.mark.long
def test_ten_thousand_batches_in_two_thousand_jobs(
    page: BatchesPage, services: dict[str, DevServer], capsys: pytest.CaptureFixture[str]
) -> None:
    """The first jobs are there at once, with one request to the service; all can be reached."""
    service = services["large"]
    before = service.stats()["requests"].get("list_batches", 0)
    page.open(view="jobs", conn_id="large")
    expect(page.job()).to_have_count(20)
    asked = service.stats()["requests"]["list_batches"] - before
    paint, rows = page.first_shown()
    page.scroll_to(2_000, "#jobs .row[data-id]")
    expect(page.job()).to_have_count(2_000)
    expect(page.job("run_1234").locator(".batches")).to_have_text("5 of 5")
    spent = page.filter_all()
    all_asked = service.stats()["requests"]["list_batches"] - before
    said = (
        f"10,000 batches in 2,000 jobs: first paint {paint:.0f} ms, first jobs {rows:.0f} ms with {asked} "
        f"request to the service, all with {all_asked}; filtering all {spent:.0f} ms"
    )
    with capsys.disabled():
        print(f"\n{said}")  # noqa: T201 - these numbers are quoted
    assert asked == 1
    assert all_asked <= 110


@pytest.mark.long
def test_twenty_viewers(
    browser: Browser,
    login: StorageState,
    airflow: AirflowStack,
    account: Account,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All who look at an account at the same time cost its service what a few do."""
    server, conn_id = account
    several(server, 2)
    context = browser.new_context(storage_state=login)
    pages = [context.new_page() for _ in range(VIEWERS)]
    try:
        for one in pages:
            one.goto(f"{airflow.url}/openai-batches/?conn_id={conn_id}")
            expect(one.locator("#jobs .row[data-id]")).to_have_count(1)
        before, began = server.stats()["requests"]["list_batches"], time.monotonic()
        pages[0].wait_for_timeout(20 * SECONDS)
        seconds = time.monotonic() - began
        asked = server.stats()["requests"]["list_batches"] - before
    finally:
        context.close()
    with capsys.disabled():
        print(f"\n{VIEWERS} viewers for {seconds:.0f} s: {asked} requests to the service")  # noqa: T201 - as above
    # Each of them asks every 5 s, and answers are kept for 4 s; there are two API servers.
    assert asked <= 2 * (seconds / 4 + 1)
