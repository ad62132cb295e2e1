"""Scripts of the page that need no browser, run by the Node.js that Playwright brings."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import playwright

import airflow_provider_openai_batches

STATIC = Path(airflow_provider_openai_batches.__file__).parent / "plugin" / "static"
NODE = Path(playwright.__file__).parent / "driver" / "node"

# What the scripts use of a browser. Nothing is ever due by itself, and ``answer`` says what a request gets.
BROWSER = """
const location = { search: "", pathname: "/", hash: "", href: "http://host/openai-batches/" };
const nothing = () => undefined;
Object.assign(globalThis, {
  location, document: { hidden: false }, localStorage: { getItem: () => null }, addEventListener: nothing,
  setTimeout: nothing, clearTimeout: nothing,
  window: { location, history: { state: null, replaceState: nothing } },
});
window.parent = window;
let answer;
globalThis.fetch = async (url, options) => {
  const [path, search] = url.split("?");
  const found = answer(path, new URLSearchParams(search), options.body);
  return { ok: true, status: 200, headers: new Map(), json: async () => found };
};
const origin = (n) => ({ dag_id: "dag", run_id: "run", task_id: `t${n}`, map_index: -1 });
const counts = { total: 1, completed: 0, failed: 0 };
const batch = (n, isOver) => ({
  id: `b${n}`, status: isOver ? "completed" : "in_progress", is_over: isOver, counts,
  created_at: 1000 - n, origin: origin(n), dag_known: true,
});
const facts = (n, state) => ({ origin: origin(n), task: { state }, report: null });
"""
LIST = """
const { Store } = await load("store.js");
const { BatchList } = await load("list.js");
const store = new Store();
const view = { isSearch: () => false, countShown: () => 0, since: () => null };
const list = new BatchList(store, view, nothing);
const now = () => Date.now() / 1000;
"""


def run(script: str) -> Any:
    """Run a script that calls ``say`` once, and return what it said."""
    load = f"const load = (name) => import({json.dumps(STATIC.as_uri() + '/')} + name);"
    say = "const say = (value) => console.log(JSON.stringify(value));"
    done = subprocess.run(
        [str(NODE), "--input-type=module", "--eval", load + say + BROWSER + script],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_each_of_many_tasks_is_asked_about() -> None:
    """A request asks about 100 of them; the others stayed as they were first seen."""
    script = """
store.append(null, {
  batches: Array.from({ length: 250 }, (_, n) => batch(n, true)),
  jobs: Array.from({ length: 250 }, (_, n) => facts(n, "deferred")),
});
list.lookedAt = now();
const asked = new Set();
answer = (path, query, body) => {
  const tasks = JSON.parse(body).tasks;
  for (const task of tasks) asked.add(task.task_id);
  return { jobs: tasks.map((task) => facts(task.task_id.slice(1), "deferred")) };
};
for (let look = 0; look < 5; look += 1) await list.refresh();
say(asked.size);
"""
    assert run(LIST + script) == 250


def test_each_of_many_pages_with_running_batches_is_loaded_again() -> None:
    """A look loads ten of them; a batch on the others ran for ever."""
    script = """
for (let n = 0; n < 25; n += 1) store.append(n ? `p${n}` : null, { batches: [batch(n, false)], jobs: [] });
let requests = 0;
answer = (path, query) => {
  requests += 1;
  const n = Number((query.get("after") ?? "p0").slice(1));
  return { batches: [batch(n, n === 24)], jobs: [], hidden: 0, next: `p${n + 1}`, now: now() };
};
const most = [];
for (let look = 0; look < 5; look += 1) {
  requests = 0;
  await list.refresh();
  most.push(requests);
}
say([store.get("b24").status, Math.max(...most)]);
"""
    assert run(LIST + script) == ["completed", 10]


def test_a_bug_report_of_a_job_whose_report_has_no_real_time() -> None:
    """Any task can write the XCom; browsers have no such date, and the button did nothing."""
    script = """
const { bugReport } = await load("bug_report.js");
const report = { state: "waiting", at: 2 ** 53 };
say(bugReport({ origin: origin(1), task: null, report, state: "running", counts, batches: [] }, {}, 1));
"""
    assert ": state=waiting" in run(script)
