// Everything around the table: totals, filters, messages, and whether the list is live.

import { place } from "./address.js";
import { byId, el, setText } from "./dom.js";
import { money, number, short } from "./format.js";
import { inAirflow } from "./links.js";
import { INTERVAL } from "./list.js";

// What each view can be narrowed to.
export const STATUSES = {
  jobs: ["all", "running", "complete", "failed"],
  batches: ["all", "running", "completed", "failed", "expired", "cancelled"],
};

/** Replace the children of an element, if the data that they are made from has changed. */
function redraw(element, data, children) {
  const key = JSON.stringify(data);
  if (element.dataset.key === key) return;
  element.dataset.key = key;
  element.replaceChildren(...children().filter(Boolean));
}

function sumOf(items, read) {
  return items.reduce((total, item) => total + (read(item) ?? 0), 0);
}

function costOf(costs) {
  const known = costs.filter(({ usd, is_known: isKnown }) => usd || isKnown);
  return costs.length ? money({ usd: sumOf(known, ({ usd }) => usd), is_known: costs.every((one) => one.is_known) }) : "–";
}

function figuresOfJobs(jobs) {
  return [
    ["Jobs", number(jobs.length)],
    ["Running", number(jobs.filter((job) => !job.is_over).length)],
    [
      "Rows answered",
      short(sumOf(jobs, (job) => job.counts.completed)),
      short(sumOf(jobs, (job) => job.counts.total)),
    ],
    ["Rows failed", number(sumOf(jobs, (job) => job.counts.failed))],
    ["Tokens", short(sumOf(jobs, (job) => job.tokens))],
    ["Cost so far", costOf(jobs.map((job) => job.cost))],
  ];
}

function figuresOfBatches(batches) {
  const priced = batches.filter((batch) => batch.cost !== null);
  return [
    ["Batches", number(batches.length)],
    ["Running", number(batches.filter((batch) => !batch.is_over).length)],
    [
      "Requests done",
      short(sumOf(batches, (batch) => batch.counts.completed)),
      short(sumOf(batches, (batch) => batch.counts.total)),
    ],
    ["Requests failed", number(sumOf(batches, (batch) => batch.counts.failed))],
    ["Tokens", short(sumOf(batches, (batch) => batch.tokens?.total))],
    ["Cost so far", costOf(priced.map((batch) => ({ usd: batch.cost_usd, is_known: batch.cost_is_known })))],
  ];
}

export function drawTotals(items, view) {
  const figures = view === "jobs" ? figuresOfJobs(items) : figuresOfBatches(items);
  const amiss = ([name, value]) => (name.endsWith("failed") && value !== "0" ? ".amiss" : "");
  const small = (of) => of && el("small", {}, ` of ${of}`);
  const one = (figure) => el(`div${amiss(figure)}`, {}, el("dt", {}, figure[0]), el("dd", {}, figure[1], small(figure[2])));
  byId("totals").hidden = !items.length;
  redraw(byId("totals"), figures, () => figures.map(one));
}

/** The buttons of a view's statuses. */
export function drawChips(view, choose) {
  const chip = (status) =>
    el(
      "button.chip",
      { type: "button", "data-status": status, onclick: () => choose(status) },
      `${status} `,
      el("small", {}, "0"),
    );
  byId("statuses").replaceChildren(...STATUSES[view].map(chip));
}

/**
 * @param {{rows: Map}} table what the filter is for
 * @param {{groupOf: function(Object): string, passes: function(Object, string, string): boolean}} how
 */
export function drawFilters(table, filter, { groupOf, passes }) {
  const counts = Object.fromEntries(STATUSES[filter.view].map((status) => [status, 0]));
  for (const { item, haystack } of table.rows.values()) {
    if (!passes(item, haystack, "any status")) continue;
    counts.all += 1;
    counts[groupOf(item)] += 1;
  }
  for (const chip of byId("statuses").children) {
    chip.setAttribute("aria-pressed", String(chip.dataset.status === filter.status));
    setText(chip.lastChild, number(counts[chip.dataset.status]));
  }
  for (const button of byId("views").children)
    button.setAttribute("aria-pressed", String(button.dataset.view === filter.view));
  const dags = [...new Set([...table.rows.values()].map(({ item }) => item.origin.dag_id).filter(Boolean))].sort();
  if (filter.dag && !dags.includes(filter.dag)) dags.unshift(filter.dag);
  const options = () => [
    el("option", { value: "" }, "All DAGs"),
    ...dags.map((dag) => el("option", { value: dag }, dag)),
  ];
  byId("filters").hidden = !table.rows.size;
  byId("dag-field").hidden = Boolean(place);
  byId("hours").value = filter.hours;
  redraw(byId("dag"), dags, options);
  byId("dag").value = filter.dag;
}

/** What is shown alone: a DAG, a run of it or a job. */
export function kindOfPlace() {
  return place?.task_id ? "job" : place?.run_id ? "run" : "DAG";
}

/** The message above the rows or in place of them: title, sentence, button with its action, link. */
function message(list, shown, page) {
  const { problem, hidden, store } = list;
  if (problem) {
    const button = problem.status === 400 ? ["Reload", () => list.load()] : ["Try again", page.retry];
    return [store.size ? "Not up to date" : "No batches to show", problem.message, button];
  }
  if (!list.looked) return ["", "Loading…"];
  if (!list.conn) {
    const what = "Create a connection of type OpenAI Batches with your API key, and its batches will show here.";
    return ["No connection yet", what, null, () => inAirflow("connections", "Open Admin → Connections")];
  }
  if (shown.length) {
    return hidden && ["", `${number(hidden)} more belong to DAGs, or to a connection, that you may not read.`];
  }
  if (store.size) {
    return [
      "Nothing matches",
      "Nothing that is loaded matches the filter.",
      ["Clear the filter", page.clearFilter],
    ];
  }
  if (hidden) return ["No batches to show", `${number(hidden)} belong to DAGs, or to a connection, that you may not read.`];
  if (place) {
    const other = "If the task uses another connection, choose it above.";
    const what = `No batches of this ${kindOfPlace()}`;
    return [what, `A batch appears here as soon as a task creates one. ${other}`];
  }
  return ["No batches yet", "A batch appears here as soon as a DAG creates one with this connection."];
}

export function drawNotice(list, shown, page) {
  const notice = byId("notice");
  const said = message(list, shown, page);
  notice.hidden = !said;
  notice.dataset.kind = list.problem ? "problem" : shown.length ? "note" : "empty";
  const [title, sentence, button, link] = said || [];
  redraw(notice, [title, sentence], () => [
    title && el("h2", {}, title),
    sentence && el("p", {}, sentence),
    button && el("button.button", { type: "button", onclick: () => button[1]() }, button[0]),
    link && el("p", {}, link()),
  ]);
}

export function drawRest(list, shown, { view, isSearch }) {
  const { store, goesOn, loading } = list;
  const all = view === "jobs" ? store.jobCount : store.size;
  for (const name of Object.keys(STATUSES)) byId(name).hidden = name !== view || !shown.length;
  byId("more").hidden = !goesOn || !store.size;
  byId("older").disabled = loading;
  setText(byId("older"), loading ? "Loading…" : isSearch ? "Search older batches" : "Load older batches");
  setText(byId("seen"), `${number(shown.length)} shown of ${number(all)} loaded; there are older ones.`);
  const live = list.looked && !list.problem && list.runs;
  byId("pulse").dataset.live = String(live);
  setText(
    byId("freshness"),
    !list.looked || list.problem ? "" : live ? `Live, every ${INTERVAL} s` : "Nothing is running",
  );
}
