// The panel that sums up what the account's batches cost. It asks when it is opened or changed, and not by itself.

import { sumUpCosts } from "./api.js";
import { byId, el, foreign } from "./dom.js";
import { date, number } from "./format.js";

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
  return el(
    "table",
    { "aria-label": "Costs" },
    el("thead", {}, el("tr", {}, ...heads, ...counts)),
    el("tbody", {}, ...lines),
    el("tfoot", {}, line("th", pad("Total"), total)),
  );
}

/** What is not in the sum, and why. */
function notes({ total, hidden, reached }) {
  const many = (count, what) => `${number(count)} ${count === 1 ? "batch" : "batches"} ${what}`;
  const models = total.models_without_price;
  return [
    reached && `Only back to ${date(reached)}. “airflow openai-batches cost” goes back as far as you like.`,
    total.running && many(total.running, "still running: the rest of their cost comes when they end."),
    total.without_usage && many(total.without_usage, "without token counts: the cost is unknown."),
    models.length &&
      `No price: ${models.slice(0, 5).join(", ")}${models.length > 5 ? " …" : ""}. Enter one in the connection, or install airflow-provider-openai-batches[prices].`,
    hidden && many(hidden, "of DAGs, or of a connection, that you may not read."),
    "Answers that were asked live are not in it.",
  ].filter(Boolean);
}

export class Costs {
  /** @param {function(): Object} params the connection to ask about */
  constructor(params) {
    this.params = params;
    this.round = 0; // answers to an earlier question are thrown away
    this.panel = byId("costs");
    this.panel.addEventListener("toggle", () => this.load());
    this.panel.addEventListener("change", () => this.load());
    this.panel.addEventListener("submit", (event) => {
      event.preventDefault();
      this.load();
    });
  }

  async load() {
    const mine = ++this.round;
    const key = byId("costs-key").value.trim();
    const by = byId("costs-by").value || key;
    byId("costs-key-field").hidden = byId("costs-by").value !== "";
    if (!this.panel.open || !this.params().conn_id) return;
    if (!by) return this.show(el("p", {}, "Enter a key of your batches' metadata, such as team."));
    this.show(el("p", {}, "Adding up…"));
    try {
      const found = await sumUpCosts({ ...this.params(), hours: byId("costs-hours").value, by });
      if (mine !== this.round) return;
      const parts = found.total.batches ? [table(found)] : [el("p", {}, "No batches in this time.")];
      this.show(...parts, ...notes(found).map((note) => el("p", {}, note)));
    } catch (problem) {
      if (mine === this.round) this.show(el("p.amiss", { role: "alert" }, problem.message));
    }
  }

  show(...parts) {
    byId("costs-sums").replaceChildren(...parts);
  }
}
