// The panel that sums up what the account's batches cost. It asks when it is opened or changed, and not by itself.

import { sumUpCosts, sumUpDays } from "./api.js";
import { Chart } from "./chart.js";
import { announce, byId, el, foreign } from "./dom.js";
import { number } from "./format.js";
import { moment } from "./time.js";

const TITLES = { dag_id: "DAG", task_id: "Task", run_id: "Run", model: "Model", day: "Day (UTC)" };

function line(tag, names, sum) {
  const figures = [number(sum.batches), number(sum.requests.completed), number(sum.tokens.total), sum.cost];
  return el(
    "tr",
    {},
    ...names.map((name) => el(tag, {}, name === null ? "–" : foreign(name))),
    ...figures.map((figure) => el("td.number", {}, figure)),
  );
}

function table({ columns, groups, others, total }) {
  const pad = (name) => [name, ...columns.slice(1).map(() => "")];
  const heads = [...columns.map((name) => TITLES[name] ?? name)].map((name) => el("th", { scope: "col" }, foreign(name)));
  const counts = ["Batches", "Requests", "Tokens", "Cost"].map((name) => el("th.number", { scope: "col" }, name));
  const lines = groups.map((group) => line("td", group.names, group));
  if (others) lines.push(line("td", pad("all others"), others));
  const sums = el(
    "table",
    { "aria-label": "Costs" },
    el("thead", {}, el("tr", {}, ...heads, ...counts)),
    el("tbody", {}, ...lines),
    el("tfoot", {}, line("th", pad("Total"), total)),
  );
  // The keys scroll it where the window is too narrow.
  return el("div.wide", { role: "region", "aria-label": "Sums of costs", tabindex: 0 }, sums);
}

/** What is not in the sum, and why. */
function notes({ total, hidden, reached }) {
  const many = (count, what) => `${number(count)} ${count === 1 ? "batch" : "batches"} ${what}`;
  const models = total.models_without_price;
  return [
    reached && ["Only back to ", moment(reached), ". “airflow openai-batches cost” goes back as far as you like."],
    total.running && [many(total.running, "still running: the rest of their cost comes when they end.")],
    total.without_usage && [many(total.without_usage, "without token counts: the cost is unknown.")],
    models.length && [
      "No price: ",
      ...models.slice(0, 5).flatMap((model, at) => (at ? [", ", foreign(model)] : [foreign(model)])),
      models.length > 5 ? " …" : "",
      ". Enter one in the connection, or install airflow-provider-openai-batches[prices].",
    ],
    hidden && [many(hidden, "of DAGs, or of a connection, that you may not read.")],
    ["Answers that were asked live are not in it."],
  ].filter(Boolean);
}

const paragraphs = (found) => notes(found).map((note) => el("p", {}, ...note));

export class Costs {
  /** @param {function(): Object} params the connection to ask about */
  constructor(params) {
    this.params = params;
    this.round = 0; // answers to an earlier question are thrown away
    this.panel = byId("costs");
    this.chart = new Chart();
    this.panel.addEventListener("toggle", () => this.load());
    const form = this.panel.querySelector("form");
    form.addEventListener("change", () => this.load());
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.load();
    });
  }

  async load() {
    const mine = ++this.round;
    const key = byId("costs-key").value.trim();
    const by = byId("costs-by").value || key;
    byId("costs-key-field").hidden = byId("costs-by").value !== "";
    const { conn_id } = this.params();
    if (!by || conn_id !== this.conn_id) this.chart.show(null);
    this.conn_id = conn_id;
    if (!this.panel.open || !conn_id) return;
    if (!by) return this.say("Enter a key of your batches' metadata, such as team.");
    this.say("Adding up…");
    const asked = { conn_id, hours: byId("costs-hours").value };
    const series = by === "model" ? "model" : "dag";
    // At the same time, so that both get the same pages from the server's cache.
    const answers = await Promise.allSettled([sumUpCosts({ ...asked, by }), sumUpDays({ ...asked, by: series })]);
    if (mine !== this.round) return;
    const [sums, days] = answers;
    this.chart.show(days.value, series);
    const problem = sums.reason ?? days.reason;
    const parts = problem ? [el("p.amiss", { role: "alert" }, problem.message)] : [];
    this.show(...parts, ...(sums.value ? this.sums(sums.value) : []));
  }

  sums(found) {
    const { batches, cost } = found.total;
    if (!batches) return [el("p", {}, "No batches in this time."), ...paragraphs(found)];
    announce(`Costs of ${number(batches)} ${batches === 1 ? "batch" : "batches"}: ${cost}.`);
    return [table(found), ...paragraphs(found)];
  }

  say(sentence) {
    announce(sentence);
    this.show(el("p", {}, sentence));
  }

  show(...parts) {
    byId("costs-sums").replaceChildren(...parts);
  }
}
