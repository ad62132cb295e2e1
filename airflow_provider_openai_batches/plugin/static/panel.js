// The panel of a batch.

import { showBatch } from "./api.js";
import { badge, progressBar } from "./batch_cells.js";
import { byId, el, foreign } from "./dom.js";
import { keepingFocus } from "./focus.js";
import { bytes, duration, number, progress } from "./format.js";
import { elsewhere, origin } from "./links.js";
import { moment } from "./time.js";

const TIMES = {
  created_at: "Created",
  in_progress_at: "Started",
  finalizing_at: "Finalizing since",
  completed_at: "Completed",
  failed_at: "Failed",
  cancelling_at: "Cancelling since",
  cancelled_at: "Cancelled",
  expired_at: "Expired",
  expires_at: "Window closes",
};

export function section(title, ...content) {
  return el("section", {}, el("h3", {}, title), ...content);
}

export function pairs(entries) {
  const kept = entries.filter(([, value]) => value !== null && value !== undefined && value !== false);
  return el("dl.pairs", {}, ...kept.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

function times(shown) {
  const first = shown.times.created_at;
  const after = (time) =>
    first && time > first ? el("span.muted", {}, ` · after ${duration(time - first)}`) : "";
  const known = Object.entries(TIMES).filter(([name]) => shown.times[name]);
  const entries = known.map(([name, title]) => [
    title,
    el("span", {}, moment(shown.times[name]), name === "expires_at" ? "" : after(shown.times[name])),
  ]);
  return section(
    "Times",
    pairs([...entries, ["Completion window", shown.completion_window && foreign(shown.completion_window)]]),
  );
}

/** The DAG, run and task of a batch or job. */
export function madeBy(item) {
  const { dag, run, task } = origin(item);
  return (
    dag &&
    section(
      "Made by",
      pairs([
        ["DAG", dag],
        ["Run", run],
        ["Task", task],
      ]),
    )
  );
}

export const NO_PRICE =
  "unknown: the model has no price. Enter one in the connection, or install airflow-provider-openai-batches[prices].";

function tokens({ tokens: used, cost }) {
  if (!used) return null;
  const part = (value, word) => (value ? el("span.muted", {}, ` · ${number(value)} ${word}`) : "");
  return section(
    "Tokens and cost",
    pairs([
      ["Input", el("span", {}, number(used.input), part(used.cached, "cached"))],
      ["Output", el("span", {}, number(used.output), part(used.reasoning, "reasoning"))],
      ["Total", number(used.total)],
      ["Cost", cost === "no price" ? NO_PRICE : cost],
    ]),
  );
}

function errors(shown) {
  if (!shown.errors.length) return null;
  const where = (error) => [error.line && `line ${error.line}`, error.param].filter(Boolean).join(", ");
  const items = shown.errors.map((error) =>
    el(
      "li",
      {},
      el("strong", {}, foreign(error.code ?? "error")),
      where(error) && el("span.muted", {}, " ", foreign(where(error))),
      el("p", {}, foreign(error.message ?? "no message")),
    ),
  );
  return section("Errors", el("ul.errors", {}, ...items));
}

function failures(batch, shown) {
  if (!shown.failures.length) return null;
  const title = `First failed requests (${number(shown.failures.length)} of ${number(Math.max(progress(batch).failed, shown.failures.length))})`;
  return section(title, el("ul.errors", {}, ...shown.failures.map((text) => el("li", {}, foreign(text)))));
}

function files(shown) {
  if (!shown.files.length) return null;
  const line = (file) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, file.role),
      el(
        "td",
        {},
        foreign(file.filename ?? file.id),
        el("span.small.muted.block", {}, file.filename ? foreign(file.id) : ""),
      ),
      el(
        "td.number",
        {},
        file.problem ? el("span.muted", {}, file.problem) : file.bytes === null ? "–" : bytes(file.bytes),
      ),
    );
  return section("Files", el("table", {}, el("tbody", {}, ...shown.files.map(line))));
}

function metadata(shown) {
  const entries = Object.entries(shown.metadata);
  return entries.length
    ? section("Metadata", pairs(entries.map(([name, value]) => [foreign(name), foreign(value)])))
    : null;
}

export class Panel {
  /** @param {{params: function(): Object, changed: function(Object), ask: function(Object)}} page */
  constructor(page) {
    this.page = page;
    this.dialog = byId("panel");
    this.dialog.addEventListener("close", () => (this.id = null));
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
  }

  open(batch) {
    this.id = batch.id;
    this.shown = null;
    this.body = el("div.body", {}, el("p.muted", { role: "status" }, "Loading…"));
    this.head = el("div.head");
    this.drawHead(batch);
    this.dialog.replaceChildren(this.head, this.body);
    this.dialog.showModal();
    this.refresh();
  }

  drawHead(batch) {
    const cancel =
      batch.may_cancel &&
      el("button.button.danger", { type: "button", onclick: () => this.page.ask(batch) }, "Cancel batch");
    const close = el(
      "button.button.quiet",
      { type: "button", autofocus: true, onclick: () => this.dialog.close() },
      "Close",
    );
    const parts = [
      badge(batch),
      el("h2", { id: "panel-title" }, foreign(batch.id)),
      el("span.actions", {}, ...[cancel, close].filter(Boolean)),
    ];
    this.head.replaceChildren(...parts);
  }

  /** Load the open batch again, and redraw it only if something changed. */
  async refresh() {
    const { id } = this;
    if (!id) return;
    try {
      const shown = await showBatch(id, this.page.params());
      if (this.id !== id) return;
      const key = JSON.stringify([shown.batch, { ...shown, now: 0 }]);
      if (key === this.shown) return;
      this.shown = key;
      this.draw(shown);
      this.page.changed(shown.batch);
    } catch (problem) {
      if (this.id === id && !this.shown)
        this.body.replaceChildren(el("p.amiss", { role: "alert" }, problem.message));
    }
  }

  draw(shown) {
    const { batch } = shown;
    const about = pairs([
      ["Model", batch.model && foreign(batch.model)],
      ["Endpoint", batch.endpoint && foreign(batch.endpoint)],
    ]);
    const link = shown.link && el("p", {}, elsewhere(shown.link, "Open on the service's own page ↗"));
    const parts = [
      el("div.progress", {}, ...progressBar(batch)),
      about,
      errors(shown),
      failures(batch, shown),
      madeBy(batch),
      times(shown),
      tokens(batch),
      files(shown),
      metadata(shown),
      link,
    ];
    keepingFocus(this.dialog, () => {
      this.drawHead(batch);
      this.body.replaceChildren(...parts.filter(Boolean));
    });
  }
}
