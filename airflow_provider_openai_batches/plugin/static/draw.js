// Everything around the table: totals, filters, messages, and whether the list is live.

import { byId, el, setText } from "./dom.js";
import { group, number, short } from "./format.js";
import { inAirflow } from "./links.js";
import { INTERVAL } from "./list.js";

export const STATUSES = ["all", "running", "completed", "failed", "expired", "cancelled"];

/** Replace the children of an element, if the data that they are made from has changed. */
function redraw(element, data, children) {
  const key = JSON.stringify(data);
  if (element.dataset.key === key) return;
  element.dataset.key = key;
  element.replaceChildren(...children().filter(Boolean));
}

export function drawTotals(batches) {
  const sum = (read) => batches.reduce((total, batch) => total + (read(batch) ?? 0), 0);
  const failed = sum((batch) => batch.counts.failed);
  const figures = [
    ["Batches", number(batches.length)],
    ["Running", number(batches.filter((batch) => !batch.is_over).length)],
    [
      "Requests done",
      short(sum((batch) => batch.counts.completed)),
      short(sum((batch) => batch.counts.total)),
    ],
    ["Requests failed", number(failed)],
    ["Input tokens", short(sum((batch) => batch.tokens?.input))],
    ["Output tokens", short(sum((batch) => batch.tokens?.output))],
  ];
  const amiss = (name) => (name === "Requests failed" && failed ? ".amiss" : "");
  byId("totals").hidden = !batches.length;
  redraw(byId("totals"), figures, () =>
    figures.map(([name, value, of]) =>
      el(
        `div${amiss(name)}`,
        {},
        el("dt", {}, name),
        el("dd", {}, value, of && el("small", {}, ` of ${of}`)),
      ),
    ),
  );
}

/** @param {function(Object, string, string): boolean} passes whether a row matches the filter */
export function drawFilters(table, filter, run, passes) {
  const counts = Object.fromEntries(STATUSES.map((status) => [status, 0]));
  for (const { batch, haystack } of table.rows.values()) {
    if (!passes(batch, haystack, "any status")) continue;
    counts.all += 1;
    counts[group(batch)] += 1;
  }
  for (const chip of byId("statuses").children) {
    chip.setAttribute("aria-pressed", String(chip.dataset.status === filter.status));
    setText(chip.lastChild, number(counts[chip.dataset.status]));
  }
  const dags = [...new Set(table.batches.map((batch) => batch.origin.dag_id).filter(Boolean))].sort();
  if (filter.dag && !dags.includes(filter.dag)) dags.unshift(filter.dag);
  const options = () => [
    el("option", { value: "" }, "All DAGs"),
    ...dags.map((dag) => el("option", { value: dag }, dag)),
  ];
  byId("filters").hidden = !table.rows.size;
  byId("dag-field").hidden = Boolean(run);
  redraw(byId("dag"), dags, options);
  byId("dag").value = filter.dag;
}

/** The message above the rows or in place of them: title, sentence, button with its action, link. */
function message(list, shown, page) {
  const { problem, hidden, table } = list;
  if (problem) {
    const button = problem.status === 400 ? ["Reload", () => list.load()] : ["Try again", page.retry];
    return [table.rows.size ? "Not up to date" : "No batches to show", problem.message, button];
  }
  if (!list.looked) return ["", "Loading…"];
  if (!list.conn) {
    const what = "Create a connection of type OpenAI Batches with your API key, and its batches will show here.";
    return ["No connection yet", what, null, () => inAirflow("connections", "Open Admin → Connections")];
  }
  if (shown.length) {
    return hidden && ["", `${number(hidden)} more belong to DAGs, or to a connection, that you may not read.`];
  }
  if (table.rows.size) {
    return [
      "Nothing matches",
      "None of the loaded batches matches the filter.",
      ["Clear the filter", page.clearFilter],
    ];
  }
  if (hidden) return ["No batches to show", `${number(hidden)} belong to DAGs, or to a connection, that you may not read.`];
  if (page.run) {
    const other = "If the task uses another connection, choose it above.";
    return ["No batches of this run", `A batch appears here as soon as a task creates one. ${other}`];
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

export function drawRest(list, shown, isSearch) {
  const { table, next, loading } = list;
  byId("table").hidden = !shown.length;
  byId("more").hidden = !next || !table.rows.size;
  byId("older").disabled = loading;
  setText(byId("older"), loading ? "Loading…" : isSearch ? "Search older batches" : "Load older batches");
  setText(
    byId("seen"),
    `${number(shown.length)} shown of ${number(table.rows.size)} loaded; there are older ones.`,
  );
  const live = list.looked && !list.problem && list.runs;
  byId("pulse").dataset.live = String(live);
  setText(
    byId("freshness"),
    !list.looked || list.problem ? "" : live ? `Live, every ${INTERVAL} s` : "Nothing is running",
  );
}
