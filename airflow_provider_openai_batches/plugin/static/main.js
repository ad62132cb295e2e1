// The page: which batches there are, which of them are shown, and when to ask again.

import { listBatches, listConnections } from "./api.js";
import { byId, el, setText } from "./dom.js";
import { group, number, short } from "./format.js";
import { inAirflow } from "./links.js";
import { askAndCancel, Panel } from "./panel.js";
import { Table } from "./table.js";
import { followTheme } from "./theme.js";

const EVERY = 5; // seconds between two looks while something runs
const SELDOM = 60; // while nothing does
const AFTER_A_PROBLEM = 15;
const AT_ONCE = 10; // pages that one search, or one run, is looked for in
const STATUSES = ["all", "running", "completed", "failed", "expired", "cancelled"];

const url = new URLSearchParams(location.search);
const run = url.get("run_id") ? { dag_id: url.get("dag_id"), run_id: url.get("run_id") } : null;
const filter = {
  status: url.get("status") ?? "all",
  dag: run ? "" : (url.get("dag") ?? ""),
  text: url.get("text") ?? "",
};
if (!STATUSES.includes(filter.status)) filter.status = "all";

let conn = url.get("conn_id");
let connections = [];
let pages = []; // {after, ids}: what was asked for, and what came
let next = null;
let hidden = 0;
let skew = 0; // seconds that the server's clock is ahead of this one's
let problem = null;
let looked = false;
let timer = 0;
let round = 0; // whatever an earlier round still waits for is thrown away

const now = () => Date.now() / 1000 + skew;
const params = () => ({ conn_id: conn, ...run });
const table = new Table(byId("table"), {
  open: (id) => panel.open(table.get(id)),
  cancel: (id) => ask(table.get(id)),
});
const panel = new Panel({
  params: () => ({ conn_id: conn }),
  changed: (batch) => changed(batch),
  ask: (batch) => ask(batch),
});

function ask(batch) {
  askAndCancel(batch, { conn_id: conn }, (after) => {
    changed(after);
    panel.refresh();
    schedule(1);
  });
}

function changed(batch) {
  table.update(batch, now());
  draw();
}

// -- asking ---------------------------------------------------------------------------------------------------

async function fetchPage(after) {
  const answer = await listBatches({ ...params(), after });
  skew = answer.now - Date.now() / 1000;
  return answer;
}

/** Run ``work``; keep the sentence if it fails. False if another round began meanwhile. */
async function attempt(work) {
  const mine = round;
  document.body.setAttribute("aria-busy", "true");
  try {
    await work(() => mine === round);
    if (mine === round) problem = null;
  } catch (error) {
    if (mine === round) problem = error;
    if (error.status === undefined) console.error(error);
  }
  if (mine !== round) return false;
  document.body.removeAttribute("aria-busy");
  looked = true;
  draw();
  return true;
}

async function loadFirst() {
  round += 1;
  clearTimeout(timer);
  [pages, next, hidden, problem, looked] = [[], null, 0, null, false];
  table.clear();
  draw();
  const current = await attempt(async (valid) => {
    await loadOlder(valid);
    for (let count = 1; run && next && count < AT_ONCE && valid(); count += 1) await loadOlder(valid);
  });
  if (current) schedule();
}

async function loadOlder(valid) {
  const after = next;
  const answer = await fetchPage(after);
  if (!valid()) return;
  table.append(answer.batches, now());
  pages.push({ after, ids: answer.batches.map((batch) => batch.id) });
  next = answer.next;
  hidden += answer.hidden;
  draw();
}

let loading = false;
async function older() {
  if (loading || !next || problem?.status === 400) return;
  loading = true;
  draw();
  const before = shown().length;
  await attempt(async (valid) => {
    const limit = isFiltered() || run ? AT_ONCE : 1;
    for (let count = 0; next && count < limit && valid() && shown().length < before + 50; count += 1)
      await loadOlder(valid);
  });
  loading = false;
  draw();
}

/** Look again at the newest page, and at the pages on which something runs. */
async function refresh() {
  if (!pages.length) return loadFirst();
  const current = await attempt(async (valid) => {
    for (const page of pages
      .filter((one, at) => at === 0 || one.ids.some((id) => !table.get(id)?.is_over))
      .slice(0, AT_ONCE)) {
      const answer = await fetchPage(page.after);
      if (!valid()) return;
      if (page.after === null && !takeNewest(page, answer)) return void setTimeout(loadFirst);
      for (const batch of answer.batches) table.update(batch, now());
    }
    await panel.refresh();
  });
  if (current) schedule();
}

/** False if so much is new that there may be a gap between it and what is known. */
function takeNewest(page, answer) {
  const fresh = answer.batches.filter((batch) => !table.get(batch.id));
  if (fresh.length === answer.batches.length && answer.next && table.rows.size) return false;
  table.prepend(fresh, now());
  page.ids = [...fresh.map((batch) => batch.id), ...page.ids];
  return true;
}

function runs() {
  return table.batches.some((batch) => !batch.is_over);
}

function schedule(seconds = problem ? AFTER_A_PROBLEM : runs() ? EVERY : SELDOM) {
  clearTimeout(timer);
  if (problem?.status === 401) return;
  timer = setTimeout(() => (document.hidden ? schedule() : refresh()), seconds * 1000);
}

// -- showing --------------------------------------------------------------------------------------------------

const isFiltered = () => filter.status !== "all" || filter.dag !== "" || filter.text !== "";

function passes(batch, haystack, but = "") {
  return (
    (but === "status" || filter.status === "all" || group(batch) === filter.status) &&
    (!filter.dag || batch.origin.dag_id === filter.dag) &&
    filter.text
      .toLowerCase()
      .split(/\s+/)
      .every((word) => haystack.includes(word))
  );
}

function shown() {
  return table.filter((batch, haystack) => passes(batch, haystack));
}

function draw() {
  const batches = shown();
  drawTotals(batches);
  drawFilters();
  drawNotice(batches);
  const has = batches.length > 0;
  byId("table").hidden = !has;
  byId("totals").hidden = !has;
  byId("filters").hidden = !table.rows.size;
  byId("more").hidden = !next || !table.rows.size;
  byId("older").disabled = loading;
  setText(
    byId("older"),
    loading ? "Loading…" : isFiltered() || run ? "Search older batches" : "Load older batches",
  );
  setText(
    byId("seen"),
    `${number(batches.length)} shown of ${number(table.rows.size)} loaded; the service has older ones.`,
  );
  drawFreshness();
}

function drawTotals(batches) {
  const sum = (read) => batches.reduce((total, batch) => total + (read(batch) ?? 0), 0);
  const failed = sum((batch) => batch.counts.failed);
  const figures = [
    ["Batches", number(batches.length), ""],
    ["Running", number(batches.filter((batch) => !batch.is_over).length), ""],
    [
      "Requests done",
      short(sum((batch) => batch.counts.completed)),
      `of ${short(sum((batch) => batch.counts.total))}`,
    ],
    ["Requests failed", number(failed), ""],
    ["Input tokens", short(sum((batch) => batch.tokens?.input)), ""],
    ["Output tokens", short(sum((batch) => batch.tokens?.output)), ""],
  ];
  const key = JSON.stringify(figures);
  if (byId("totals").dataset.key === key) return;
  byId("totals").dataset.key = key;
  byId("totals").replaceChildren(
    ...figures.map(([name, value, beside]) =>
      el(
        `div${name === "Requests failed" && failed ? ".amiss" : ""}`,
        {},
        el("dt", {}, name),
        el("dd", {}, value, beside && el("small", {}, ` ${beside}`)),
      ),
    ),
  );
}

function drawFilters() {
  const counts = Object.fromEntries(STATUSES.map((status) => [status, 0]));
  for (const row of table.rows.values()) {
    if (!passes(row.batch, row.haystack, "status")) continue;
    counts.all += 1;
    counts[group(row.batch)] += 1;
  }
  for (const chip of byId("statuses").children) {
    chip.setAttribute("aria-pressed", String(chip.dataset.status === filter.status));
    setText(chip.lastChild, number(counts[chip.dataset.status]));
  }
  const dags = [...new Set(table.batches.map((batch) => batch.origin.dag_id).filter(Boolean))].sort();
  if (filter.dag && !dags.includes(filter.dag)) dags.unshift(filter.dag);
  byId("dag-field").hidden = Boolean(run);
  if (byId("dag").dataset.key === JSON.stringify(dags)) return;
  byId("dag").dataset.key = JSON.stringify(dags);
  byId("dag").replaceChildren(
    el("option", { value: "" }, "All DAGs"),
    ...dags.map((dag) => el("option", { value: dag }, dag)),
  );
  byId("dag").value = filter.dag;
}

/** What to say instead of rows, or above them: [title, sentence, button, what it does]. */
function message(batches) {
  if (problem)
    return [
      table.rows.size ? "Not up to date" : "No list to show",
      problem.message,
      problem.status === 400 ? ["Reload", loadFirst] : ["Try again", refresh],
    ];
  if (!looked) return ["", "Loading…"];
  if (!conn)
    return [
      "No connection yet",
      "Create a connection of type OpenAI Batches with your API key, and its batches show here.",
      null,
      inAirflow("connections", "Open Admin → Connections"),
    ];
  if (batches.length)
    return hidden
      ? ["", `${number(hidden)} more of the batches looked through are of DAGs that you may not read.`]
      : null;
  if (table.rows.size)
    return [
      "Nothing matches",
      "No batch that is loaded passes the filter.",
      ["Clear the filter", clearFilter],
    ];
  if (run)
    return [
      "No batch of this run",
      connections.length > 1
        ? "None with this connection. Choose another one above if the task uses that."
        : "A task that creates one shows it here at once.",
    ];
  if (hidden) return ["No batch to show", `${number(hidden)} batches are of DAGs that you may not read.`];
  return ["No batch yet", "As soon as a DAG creates one with this connection, it shows here."];
}

function drawNotice(batches) {
  const notice = byId("notice");
  const said = message(batches);
  notice.hidden = !said;
  const key = said ? JSON.stringify(said.slice(0, 2)) : "";
  if (notice.dataset.key === key) return;
  notice.dataset.key = key;
  notice.dataset.kind = problem ? "problem" : batches.length ? "note" : "empty";
  if (!said) return notice.replaceChildren();
  const [title, sentence, action, link] = said;
  notice.replaceChildren(
    ...[
      title && el("h2", {}, title),
      el("p", {}, sentence),
      action && el("button.button", { type: "button", onclick: () => action[1]() }, action[0]),
      link && el("p", {}, link),
    ].filter(Boolean),
  );
}

function drawFreshness() {
  const live = looked && !problem && runs();
  byId("pulse").dataset.live = String(live);
  setText(byId("freshness"), !looked || problem ? "" : live ? `Live, every ${EVERY} s` : "Nothing runs");
}

// -- what people do -------------------------------------------------------------------------------------------

function clearFilter() {
  Object.assign(filter, { status: "all", dag: "", text: "" });
  byId("text").value = "";
  byId("dag").value = "";
  filterChanged();
}

function filterChanged() {
  const kept = {
    conn_id: conn,
    ...run,
    ...(filter.status === "all" ? {} : { status: filter.status }),
    dag: filter.dag,
    text: filter.text,
  };
  const query = new URLSearchParams(Object.entries(kept).filter(([, value]) => value));
  history.replaceState(null, "", `?${query}`);
  draw();
}

function chooseConnection(id) {
  conn = id;
  filter.dag = "";
  filterChanged();
  loadFirst();
}

function listen() {
  byId("text").value = filter.text;
  byId("text").addEventListener(
    "input",
    (event) => ((filter.text = event.target.value.trim()), filterChanged()),
  );
  byId("dag").addEventListener("change", (event) => ((filter.dag = event.target.value), filterChanged()));
  byId("connection").addEventListener("change", (event) => chooseConnection(event.target.value));
  byId("refresh").addEventListener("click", () => (connections.length || conn ? refresh() : begin()));
  byId("older").addEventListener("click", older);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("statuses").append(
    ...STATUSES.map((status) =>
      el(
        "button.chip",
        { type: "button", "data-status": status, onclick: () => ((filter.status = status), filterChanged()) },
        `${status} `,
        el("small", {}, "0"),
      ),
    ),
  );
  document.addEventListener("visibilitychange", () => !document.hidden && conn && schedule(0));
  document.addEventListener("keydown", (event) => {
    if (
      event.key !== "/" ||
      event.target.matches("input, select, textarea") ||
      document.querySelector("dialog[open]")
    )
      return;
    event.preventDefault();
    byId("text").focus();
  });
  new IntersectionObserver(([entry]) => entry.isIntersecting && !isFiltered() && !run && older(), {
    rootMargin: "600px",
  }).observe(byId("more"));
  setInterval(() => document.hidden || table.tick(now()), 5_000);
}

async function begin() {
  const ready = await attempt(async () => {
    connections = (await listConnections()).connections;
    if (conn && !connections.includes(conn)) connections.push(conn);
    conn ??= connections[0] ?? null;
    byId("connection").replaceChildren(...connections.map((id) => el("option", { value: id }, id)));
    byId("connection").value = conn;
    byId("connection-field").hidden = connections.length === 0;
    if (conn) looked = false;
  });
  if (ready && !problem && conn) await loadFirst();
  else if (problem) timer = setTimeout(begin, AFTER_A_PROBLEM * 1000);
}

followTheme();
if (run) setText(byId("title"), "Batches of this run");
listen();
begin();
