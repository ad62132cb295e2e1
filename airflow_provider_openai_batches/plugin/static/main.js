// Puts the parts of the page together and handles what the user does.

import { chosen, keep, run } from "./address.js";
import { listConnections } from "./api.js";
import { Costs } from "./costs.js";
import { byId, el, setText } from "./dom.js";
import { drawFilters, drawNotice, drawRest, drawTotals, STATUSES } from "./draw.js";
import { group } from "./format.js";
import { BatchList, RETRY_INTERVAL } from "./list.js";
import { askAndCancel, Panel } from "./panel.js";
import { Table } from "./table.js";
import { followTheme } from "./theme.js";

const filter = {
  status: STATUSES.includes(chosen.status) ? chosen.status : "all",
  dag: run ? "" : (chosen.dag ?? ""),
  text: chosen.text ?? "",
};
let connections = [];
let wanted = wordsOf(filter.text);

function wordsOf(text) {
  return text.toLowerCase().split(/\s+/).filter(Boolean);
}

const isFiltered = () => filter.status !== "all" || filter.dag !== "" || filter.text !== "";
const filtered = () => table.filter((batch, haystack) => passes(batch, haystack));

const table = new Table(byId("table"), {
  open: (id) => panel.open(table.get(id)),
  cancel: (id) => ask(table.get(id)),
});
const list = new BatchList(table, { run, isFiltered, countShown: () => filtered().length }, () => {
  draw();
  panel.refresh();
});
const panel = new Panel({ params: () => ({ conn_id: list.conn }), changed, ask });

const costs = new Costs(() => ({ conn_id: list.conn }));

function passes(batch, haystack, but = "") {
  return (
    (but === "any status" || filter.status === "all" || group(batch) === filter.status) &&
    (!filter.dag || batch.origin.dag_id === filter.dag) &&
    wanted.every((word) => haystack.includes(word))
  );
}

function draw() {
  const shown = filtered();
  drawTotals(shown);
  drawFilters(table, filter, run, passes);
  drawNotice(list, shown, { run, clearFilter, retry });
  drawRest(list, shown, isFiltered() || Boolean(run));
  document.body.setAttribute("aria-busy", String(!list.looked || list.loading));
}

function changed(batch) {
  table.update(batch, list.now());
  draw();
}

function ask(batch) {
  askAndCancel(batch, { conn_id: list.conn }, (after) => {
    changed(after);
    panel.refresh();
    list.schedule(1);
  });
}

function retry() {
  return list.conn ? list.refresh() : begin();
}

function clearFilter() {
  Object.assign(filter, { status: "all", dag: "", text: "" });
  byId("text").value = "";
  filterChanged();
}

function filterChanged(change = {}) {
  Object.assign(filter, change);
  wanted = wordsOf(filter.text);
  const status = filter.status === "all" ? "" : filter.status;
  keep({ conn_id: list.conn, status, dag: filter.dag, text: filter.text });
  draw();
}

function listen() {
  byId("text").value = filter.text;
  byId("text").addEventListener("input", (event) => filterChanged({ text: event.target.value.trim() }));
  byId("dag").addEventListener("change", (event) => filterChanged({ dag: event.target.value }));
  byId("connection").addEventListener("change", (event) => {
    list.conn = event.target.value;
    filterChanged({ dag: "" });
    list.load();
    costs.load();
  });
  for (const status of STATUSES) {
    const chosen = { type: "button", "data-status": status, onclick: () => filterChanged({ status }) };
    byId("statuses").append(el("button.chip", chosen, `${status} `, el("small", {}, "0")));
  }
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("refresh").addEventListener("click", retry);
  byId("older").addEventListener("click", () => list.loadOlder());
  document.addEventListener("visibilitychange", () => !document.hidden && list.conn && list.schedule(0));
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.target.matches("input, select") || document.querySelector("dialog[open]"))
      return;
    event.preventDefault();
    byId("text").focus();
  });
  const near = ([entry]) => entry.isIntersecting && !isFiltered() && !run && list.loadOlder();
  new IntersectionObserver(near, { rootMargin: "600px" }).observe(byId("more"));
  setInterval(() => document.hidden || table.tick(list.now()), 5_000);
}

async function begin() {
  await list.attempt(async () => {
    ({ connections } = await listConnections());
    const asked = chosen.conn_id;
    if (asked && !connections.includes(asked)) connections.push(asked);
    list.conn ??= asked ?? connections[0] ?? null;
    byId("connection").replaceChildren(...connections.map((id) => el("option", { value: id }, id)));
    byId("connection").value = list.conn;
    byId("connection-field").hidden = !connections.length;
    byId("costs").hidden = !connections.length || Boolean(run);
  });
  if (list.problem) setTimeout(begin, RETRY_INTERVAL * 1000);
  else if (list.conn) await list.load();
}

followTheme();
if (run) setText(byId("title"), "Batches of this run");
listen();
begin();
