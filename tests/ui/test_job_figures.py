"""What the page makes of batches and of what Airflow says: figures and states that must not lie."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

if TYPE_CHECKING:
    from page import BatchesPage
    from playwright.sync_api import Route

CONN = "openai_batches_default"
EVIL = '<img src=x onerror="window.top.broken = 1">'
ORIGIN = {"dag_id": "classify_reviews", "run_id": "run_1", "task_id": "classify", "map_index": -1}
MAKE = """async ([batches, facts, conn]) => {
    const { makeJob } = await import("./static/jobs.js");
    const { jobTimeLeft } = await import("./static/job_cells.js");
    const job = makeJob("one", batches, facts, conn);
    return { ...job, left: jobTimeLeft(job, Date.now() / 1000).text };
}"""


def batch(number: int = 1, status: str = "completed", **more: Any) -> dict[str, Any]:
    """A batch of a hundred rows, as the page's server gives it."""
    is_over = status not in {"validating", "in_progress", "finalizing", "cancelling"}
    done = 100 if status == "completed" else 0
    now = time.time()
    row = {
        "id": f"batch_{number:024}",
        "status": status,
        "is_over": is_over,
        "may_cancel": not is_over,
        "endpoint": "/v1/responses",
        "model": "gpt-5-mini",
        "counts": {"total": 100, "completed": done, "failed": 0},
        "tokens": {"input": 10, "cached": 0, "output": 5, "reasoning": 0, "total": 15} if is_over else None,
        "cost": "$1.00" if is_over else None,
        "cost_usd": 1.0 if is_over else None,
        "cost_is_known": is_over,
        "created_at": now - 100 + number,
        "in_progress_at": None,
        "expires_at": now + 80_000,
        "ended_at": now - 10 if is_over else None,
        "origin": ORIGIN,
        "dag_known": True,
    }
    return row | more


def facts(state: str | None = "deferred", /, **report: Any) -> dict[str, Any]:
    """What Airflow says of the task; without a report if none of its fields is given."""
    usual = {
        "state": "waiting",
        "conn_id": CONN,
        "waits_for": "",
        "batches": 2,
        "finished": 0,
        "rows": 200,
        "answered": 0,
        "failed": 0,
        "again": 0,
        "rounds": 0,
        "live": 0,
        "running": [],
        "running_total": 0,
        "cost": {"usd": 0.0, "is_known": True},
        "estimate": None,
        "at": time.time(),
        "error": "",
    }
    task = {"state": state, "try_number": 1, "began": time.time() - 200, "ended": None}
    return {"origin": ORIGIN, "task": task, "may_cancel": True, "report": usual | report if report else None}


def ids(*batches: dict[str, Any]) -> dict[str, Any]:
    return {"running": [one["id"] for one in batches], "running_total": len(batches)}


ONE, TWO = batch(1), batch(2)
RUNS = batch(2, "in_progress", counts={"total": 100, "completed": 40, "failed": 2})
DONE = {"state": "complete", "answered": 200, "finished": 2, "cost": {"usd": 2.0, "is_known": True}}
# What is loaded, what Airflow says, and some of what is shown then.
CASES: dict[str, tuple[list[dict[str, Any]], dict[str, Any] | None, dict[str, Any]]] = {
    "no facts": ([ONE, RUNS], None, {"state": "running", "done": (140, 2, 200), "usd": 1.0}),
    "waits": (
        [ONE, RUNS],
        facts(answered=100, finished=1, cost={"usd": 1.0, "is_known": True}, **ids(RUNS)),
        {"state": "running", "done": (140, 2, 200), "usd": 1.0, "is_over": False},
    ),
    "waits for room": ([RUNS], facts(**ids(RUNS)), {"state": "waiting for room", "left": "\u2013"}),
    "more runs than is named": (
        [ONE, RUNS],
        facts(batches=2, running=[ONE["id"]], running_total=2),
        {"state": "running", "done": (140, 2, 200)},
    ),
    "asked again": ([ONE, RUNS], facts(rounds=1, finished=1, **ids(RUNS)), {"state": "asked again"}),
    "live": ([ONE], facts("running", state="live"), {"state": "asked live", "group": "running"}),
    "writes its table": ([ONE, TWO], facts("running", **DONE), {"state": "finishing", "is_over": False}),
    "complete": (
        [ONE, TWO],
        facts("success", **DONE),
        {"state": "complete", "done": (200, 0, 200), "usd": 2.0},
    ),
    "cleared": ([ONE, TWO], facts(None, **DONE), {"state": "about to start", "group": "running", "note": ""}),
    "queued after it failed": (
        [ONE],
        facts("queued", state="failed", error="No."),
        {"state": "about to start", "note": "", "is_active": True},
    ),
    "will retry": ([ONE], facts("up_for_retry", state="failed"), {"state": "waiting to retry"}),
    "failed": (
        [ONE],
        facts("failed", state="failed", error="2 of 200 rows have no valid answer."),
        {"state": "failed", "group": "failed", "note": "2 of 200 rows have no valid answer."},
    ),
    "failed, and a batch runs": (
        [ONE, RUNS],
        facts("failed", state="failed", answered=100, error="Late.", **ids(RUNS)),
        {"state": "failed", "is_over": False, "note": "The task has ended, and 1 batch still runs."},
    ),
    "failed without figures": ([ONE, TWO], facts("failed", state="failed", rows=0), {"done": (200, 0, 200)}),
    "another connection": (
        [ONE],
        facts("running", conn_id="other", rows=900, answered=7),
        {"done": (100, 0, 100), "state": "running"},
    ),
    "paid in two tries": (
        [batch(n) for n in range(4)],
        facts("success", **DONE),
        {"usd": 4.0, "done": (200, 0, 200)},
    ),
    "live answers cost more": ([ONE], facts("success", **DONE), {"usd": 2.0}),
    "skipped": ([], facts("skipped"), {"state": "skipped", "group": "failed", "usd": 0}),
    "no batch yet": ([], facts("running", state="live"), {"state": "asked live", "planned": 2, "usd": 0}),
    "an expired batch": ([batch(1, "expired")], None, {"state": "expired", "group": "failed"}),
    "one of two expired": ([ONE, batch(2, "expired")], None, {"state": "ended", "group": "complete"}),
}


def test_figures(page: BatchesPage) -> None:
    """States in words, rows, costs and notes, whatever has become of the task."""
    page.page.goto(f"{page.home}?view=jobs")
    found = {}
    for case, (loaded, said, wanted) in CASES.items():
        job = page.page.evaluate(MAKE, [loaded, said, CONN])
        counts = job["counts"]
        job |= {"done": (counts["completed"], counts["failed"], counts["total"])}
        job |= {"usd": job["cost"]["usd"], "note": job["note"]["text"]}
        found[case] = {name: job[name] for name in wanted}
    assert found == {case: wanted for case, (*_, wanted) in CASES.items()}


def test_the_newest_batch_counts_for_the_time(page: BatchesPage) -> None:
    """Wherever in the list it came from."""
    page.page.goto(f"{page.home}?view=jobs")
    old, new = batch(1, created_at=1_000), batch(2, created_at=2_000)
    job = page.page.evaluate(MAKE, [[old, new], None, CONN])
    assert (job["created_at"], job["newest_at"]) == (1_000, 2_000)
    assert [one["id"] for one in job["batches"]] == [new["id"], old["id"]]


class Server:
    """Answers for the page's server; ``lists`` has the pages by their cursor."""

    def __init__(self, page: BatchesPage) -> None:
        self.lists: dict[str, Any] = {}
        self.jobs: list[dict[str, Any]] = []
        self.summary: dict[str, Any] | None = None
        self.asked: list[str] = []
        page.page.route("**/openai-batches/api/batches?*", self._list)
        page.page.route("**/openai-batches/api/jobs/tasks?*", self._tasks)
        page.page.route("**/openai-batches/api/jobs/summary?*", self._summary)

    def put(self, *pages: list[dict[str, Any]]) -> None:
        ends = len(pages) - 1
        self.lists = {
            "" if at == 0 else f"c{at}": {
                "batches": shown,
                "jobs": self.jobs,
                "hidden": 0,
                "next": None if at == ends else f"c{at + 1}",
                "now": time.time(),
            }
            for at, shown in enumerate(pages)
        }

    def wait(self, page: BatchesPage, what: str, times: int) -> None:
        """Wait until that was asked for so many times."""
        deadline = time.monotonic() + 40
        while self.asked.count(what) < times:
            assert time.monotonic() < deadline, self.asked
            page.page.wait_for_timeout(250)

    def _list(self, route: Route) -> None:
        cursor = route.request.url.partition("after=")[2].partition("&")[0]
        self.asked.append(cursor)
        route.fulfill(json=self.lists[cursor])

    def _summary(self, route: Route) -> None:
        route.fulfill(json={"summary": self.summary})

    def _tasks(self, route: Route) -> None:
        self.asked.append("tasks")
        route.fulfill(json={"jobs": self.jobs, "now": time.time()})


def test_newer_batches_push_running_ones_down(page: BatchesPage) -> None:
    """They are looked for on the pages below the first, until they have ended."""
    server = Server(page)
    server.put([batch(n, "in_progress") for n in (3, 2, 1)])
    page.open(view="jobs", hours="24")
    expect(page.job().locator(".batches")).to_have_text("0 of 3")
    server.put([batch(n, "in_progress") for n in (5, 4, 3)], [batch(2), batch(1)])
    page.frame.locator("#refresh").click()
    expect(page.job().locator(".batches")).to_have_text("2 of 5")
    server.put([batch(n) for n in (5, 4, 3)], [batch(2), batch(1)])
    page.frame.locator("#refresh").click()
    expect(page.job().locator(".batches")).to_have_text("5 of 5")
    expect(page.frame.locator("#freshness")).to_have_text("Nothing is running")


@pytest.mark.long
def test_a_dag_that_is_deleted_meanwhile(page: BatchesPage) -> None:
    """Its job goes on as that of a DAG unknown here, and the page goes on looking."""
    server = Server(page)
    server.jobs = [facts("running")]
    server.put([batch(1, "in_progress")])
    page.open(view="jobs")
    expect(page.job()).to_have_count(1)
    server.jobs = []
    server.put([batch(1, "in_progress", dag_known=False)])
    page.frame.locator("#refresh").click()
    expect(page.job().locator(".origin a")).to_have_count(0)
    expect(page.job()).to_have_count(1)
    server.put([batch(1, dag_known=False)])
    expect(page.job().locator(".status")).to_have_text("complete")


@pytest.mark.long
def test_a_task_at_work_without_a_running_batch(page: BatchesPage) -> None:
    """Airflow is asked about it every few seconds; the service each minute, and when the task goes on."""
    server = Server(page)
    server.jobs = [facts("running", **{**DONE, "state": "waiting", "at": 1})]
    server.put([ONE, TWO])
    page.open(view="jobs")
    expect(page.job().locator(".status")).to_have_text("running")
    server.wait(page, "tasks", 2)
    assert server.asked.count("") == 1
    server.jobs = [facts("deferred", batches=3, finished=2, **ids(batch(3)))]
    server.put([batch(3, "in_progress"), ONE, TWO])
    expect(page.job().locator(".batches")).to_have_text("2 of 3")
    server.wait(page, "", 2)


def test_a_job_without_a_batch(page: BatchesPage) -> None:
    """The button of a task that asks live leads to what it says of itself."""
    server = Server(page)
    server.jobs = [facts("running", state="live", live=30, answered=30, rows=200)]
    server.put([])
    place = {name: str(ORIGIN[name]) for name in ("dag_id", "run_id", "task_id")}
    page.open(view="", **place)
    expect(page.job_panel).to_contain_text("Answered live30")
    expect(page.job_panel.locator(".head .badge")).to_have_text("asked live")


def test_what_a_manifest_says(page: BatchesPage) -> None:
    """Rows by status, errors with a sample, parts, the table, the cost by model; all as plain text."""
    server = Server(page)
    server.jobs = [facts("success", **DONE)]
    server.put([ONE, TWO])
    server.summary = {
        "rows": 200,
        "output_uri": "s3://reviews/out",
        "counts": {"succeeded": 190, "failed": 10, "expired": 0},
        "errors": {"server_error": {"count": 7, "message": EVIL, "custom_id": "row-17"}},
        "errors_total": 3,
        "parts": [f"part-{number:05}.jsonl" for number in range(12)],
        "parts_total": 90,
        "table": {"table": "reviews.classified", "rows": 190},
        "cost": {
            "usd": 2.5,
            "is_known": False,
            "unpriced": ["mystery"],
            "items": [{"model": "gpt-5-mini", "way": "batch", "usd": 2.5, "tokens": 1_234_567}],
        },
    }
    page.open(view="jobs")
    page.job().locator(".open").click()
    panel = page.job_panel
    expect(panel).to_contain_text("Errors (1 of 3 kinds)")
    expect(panel.locator(".errors li")).to_contain_text("server_error 7 rows, first row-17")
    expect(panel.locator(".errors li")).to_contain_text(EVIL)
    expect(panel).to_contain_text("succeeded190")
    expect(panel).not_to_contain_text("expired0")
    expect(panel).to_contain_text("part-00009.jsonl and 80 more")
    expect(panel).to_contain_text("reviews.classified · 190 rows")
    expect(panel).to_contain_text("Cost by model: ≥ $2.50")
    expect(panel.get_by_role("table", name="Cost by model")).to_contain_text("1,234,567")
    expect(panel).to_contain_text("No price: mystery.")
    assert page.page.evaluate("window.broken") is None


def test_a_second_press_goes_on(page: BatchesPage) -> None:
    """A task that has failed meanwhile does not keep its batches from being cancelled."""
    server = Server(page)
    server.jobs = [facts("deferred", **ids(RUNS))]
    server.put([RUNS])
    page.expected = (*page.expected, "409")
    presses: list[str] = []

    def cancel(route: Route) -> None:
        presses.append("cancel")
        if len(presses) == 1:
            return route.fulfill(status=409, json={"detail": "Set it to failed first."})
        answer = {"batches": [batch(2, "cancelling")], "problems": [], "complete": len(presses) > 3}
        return route.fulfill(json=answer)

    def fail(route: Route) -> None:
        presses.append("fail")
        assert json.loads(route.request.post_data or "") == {"new_state": "failed"}
        route.fulfill(status=409, json={"detail": "It is already failed."})

    page.page.route("**/openai-batches/api/jobs/cancel?*", cancel)
    page.page.route("**/api/v2/dags/**", fail)
    page.open(view="jobs")
    page.job().get_by_role("button", name="Cancel").click()
    question = page.frame.locator("#question[open]")
    go = question.get_by_role("button", name="Cancel the job")
    go.click()
    expect(question.get_by_role("alert")).to_contain_text("older batches")
    assert presses == ["cancel", "fail", "cancel"]
    go.click()
    expect(question).to_have_count(0)
    assert presses == ["cancel", "fail", "cancel", "cancel"]
