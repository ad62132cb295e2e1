// Puts the parts of the page together and handles what the user does.

import { chosen, isHere, keep, place } from "./address.js";
import { listConnections } from "./api.js";
import { batchKind } from "./batch_cells.js";
import { Costs } from "./costs.js";
import { announce, byId, el, setText } from "./dom.js";
import { drawChips, drawFilters, drawNotice, drawRest, drawTotals, kindOfPlace, STATUSES } from "./draw.js";
import { group } from "./format.js";
import { jobKind } from "./job_cells.js";
import { JobPanel } from "./job_panel.js";
import { BatchList, RETRY_INTERVAL } from "./list.js";
import { Panel } from "./panel.js";
import { askAndCancel, askAndCancelJob } from "./question.js";
import { Store } from "./store.js";
import { Table } from "./table.js";
import { followTheme } from "./theme.js";

const view = chosen.view === "batches" ? "batches" : "jobs";
const filter = {
  view,
  status: STATUSES[view].includes(chosen.status) ? chosen.status : "all",
  dag: place ? "" : (chosen.dag ?? ""),
  hours: /^\d{1,3}$/.test(chosen.hours ?? "") ? chosen.hours : "",
  text: chosen.text ?? "",
};
let connections = [];
let versions = {};
let wanted = wordsOf(filter.text);
let hasOpened = false;

function wordsOf(text) {
  return text.toLowerCase().split(/\s+/).filter(Boolean);
}

const isFiltered = () => filter.status !== "all" || filter.dag !== "" || filter.text !== "";
const isSearch = () => isFiltered() || Boolean(place);
const since = () => filter.hours && list.now() - filter.hours * 3600;
const params = () => ({ conn_id: list.conn });
const groupOf = (item) => (filter.view === "jobs" ? item.group : group(item));

const store = new Store();
const tables = {
  jobs: new Table(
    byId("jobs"),
    jobKind({ open: (key) => jobPanel.open(key), cancel: (key) => askJob(store.job(key)) }),
  ),
  batches: new Table(
    byId("batches"),
    batchKind({ open: (id) => panel.open(store.get(id)), cancel: (id) => ask(store.get(id)) }),
  ),
};
const shownItems = () => tables[filter.view].filter((item, haystack) => passes(item, haystack));
const list = new BatchList(store, { isSearch, since, countShown: () => shownItems().length }, () => {
  draw();
  panel.refresh();
});
const panel = new Panel({ params, changed, ask });
const jobPanel = new JobPanel({
  params,
  job: (key) => store.job(key),
  now: () => list.now(),
  versions: () => versions,
  openBatch: (batch) => panel.open(batch),
  ask: askJob,
});
const costs = new Costs(params);

function passes(item, haystack, but = "") {
  return (
    isHere(item.origin) &&
    (but === "any status" || filter.status === "all" || groupOf(item) === filter.status) &&
    (!filter.dag || item.origin.dag_id === filter.dag) &&
    (!filter.hours || !item.is_over || !((item.newest_at ?? item.created_at) < since())) &&
    wanted.every((word) => haystack.includes(word))
  );
}

function draw() {
  const table = tables[filter.view];
  if (!store.pages.length) for (const each of Object.values(tables)) each.clear();
  table.show(filter.view === "jobs" ? store.jobPages : store.batchPages, list.now());
  const shown = shownItems();
  drawTotals(shown, filter.view);
  drawFilters(table, filter, { groupOf, passes });
  drawNotice(list, shown, { clearFilter, retry });
  drawRest(list, shown, { view: filter.view, isSearch: isSearch() });
  jobPanel.refresh();
  openTheJob(shown);
  document.body.setAttribute("aria-busy", String(!list.looked || list.loading));
  return shown.length;
}

/** The address of a job opens it, once. */
function openTheJob(shown) {
  if (hasOpened || !place?.task_id || filter.view !== "jobs" || shown.length !== 1) return;
  hasOpened = true;
  jobPanel.open(shown[0].id);
}

function changed(batch) {
  store.update(batch);
  draw();
}

function ask(batch) {
  askAndCancel(batch, params(), (after) => {
    changed(after);
    panel.refresh();
    list.schedule(1);
  });
}

function askJob(job) {
  askAndCancelJob(job, params(), (batches) => {
    for (const batch of batches) store.update(batch);
    draw();
    list.schedule(1);
  });
}

function retry() {
  return list.conn ? list.refresh(true) : begin();
}

function clearFilter() {
  Object.assign(filter, { status: "all", dag: "", hours: "", text: "" });
  byId("text").value = "";
  filterChanged();
  byId("text").focus(); // the button that was pressed is gone
}

function filterChanged(change = {}) {
  Object.assign(filter, change);
  wanted = wordsOf(filter.text);
  const status = filter.status === "all" ? "" : filter.status;
  const kept = { status, dag: filter.dag, hours: filter.hours, text: filter.text };
  keep({ conn_id: list.conn, view: filter.view === "jobs" ? "" : filter.view, ...kept });
  announce(`${draw()} ${filter.view} shown.`);
}

function choose(name) {
  if (name === filter.view) return;
  drawChips(name, (status) => filterChanged({ status }));
  filterChanged({ view: name, status: "all" });
}

function listen() {
  byId("text").value = filter.text;
  byId("text").addEventListener("input", (event) => filterChanged({ text: event.target.value.trim() }));
  byId("dag").addEventListener("change", (event) => filterChanged({ dag: event.target.value }));
  byId("hours").addEventListener("change", (event) => filterChanged({ hours: event.target.value }));
  byId("connection").addEventListener("change", (event) => {
    list.conn = event.target.value;
    filterChanged({ dag: "" });
    list.load();
    costs.load();
  });
  for (const button of byId("views").children)
    button.addEventListener("click", () => choose(button.dataset.view));
  drawChips(filter.view, (status) => filterChanged({ status }));
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("refresh").addEventListener("click", retry);
  byId("older").addEventListener("click", () => list.loadOlder());
  document.addEventListener("visibilitychange", () => !document.hidden && list.conn && list.schedule(0));
  document.addEventListener("keydown", (event) => {
    // Not by itself: whoever dictates to the computer would press it unawares.
    if (event.key !== "/" || !(event.ctrlKey || event.metaKey)) return;
    if (document.querySelector("dialog[open]")) return;
    event.preventDefault();
    byId("text").focus();
  });
  const near = ([entry]) => entry.isIntersecting && !isSearch() && list.loadOlder();
  new IntersectionObserver(near, { rootMargin: "600px" }).observe(byId("more"));
  setInterval(() => document.hidden || tables[filter.view].tick(list.now()), 5_000);
}

async function begin() {
  await list.attempt(async () => {
    ({ connections, versions } = await listConnections());
    const asked = chosen.conn_id;
    if (asked && !connections.includes(asked)) connections.push(asked);
    list.conn ??= asked ?? connections[0] ?? null;
    byId("connection").replaceChildren(...connections.map((id) => el("option", { value: id }, id)));
    byId("connection").value = list.conn;
    byId("connection-field").hidden = !connections.length;
    byId("costs").hidden = !connections.length || Boolean(place);
  });
  if (list.problem) setTimeout(begin, RETRY_INTERVAL * 1000);
  else if (list.conn) await list.load();
  if (filter.text && list.goesOn && !draw()) await list.loadOlder(); // a link to a batch further down
}

followTheme();
if (place) setText(byId("title"), `OpenAI batches of this ${kindOfPlace()}`);
listen();
begin();
