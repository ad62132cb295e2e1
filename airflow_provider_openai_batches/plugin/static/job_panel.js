// The panel of a job: what it waits for, its figures, its batches, and what its manifest says.

import { sumUpJob } from "./api.js";
import { badge, progressBar } from "./batch_cells.js";
import { bugReport, showBugReport } from "./bug_report.js";
import { byId, el, foreign } from "./dom.js";
import { keepingFocus } from "./focus.js";
import { money, number } from "./format.js";
import { costWords, jobProgress, jobTimeLeft, stateBadge, taskName } from "./job_cells.js";
import { madeBy, NO_PRICE, pairs, section } from "./panel.js";
import { moment } from "./time.js";

const SHOWN_PARTS = 10;

function figures(job, now) {
  const { total, completed, failed } = job.counts;
  const left = jobTimeLeft(job, now);
  return section(
    "Job",
    pairs([
      ["Rows", number(total)],
      ["Answered", number(completed)],
      ["Failed", failed ? el("span.amiss", {}, number(failed)) : "0"],
      ["Left", job.is_over ? null : number(Math.max(0, total - completed - failed))],
      ["Asked again", job.report?.again ? number(job.report.again) : null],
      ["Rounds", job.rounds ? number(job.rounds) : null],
      ["Answered live", job.report?.live ? number(job.report.live) : null],
      ["Batches", `${number(job.ended)} of ${number(job.planned)} ended`],
      [job.is_over ? "Time" : "Time left", el("span", {}, left.text, left.why && el("span.muted", {}, ` · ${left.why}`))],
      ["Began", job.created_at && moment(job.created_at)],
      ["Ended", job.ended_at && moment(job.ended_at)],
      ["Try", job.task?.try_number > 1 ? number(job.task.try_number) : null],
      ["Tokens", job.tokens ? number(job.tokens) : null],
      ["Cost", job.is_over && !job.cost.is_known && !job.cost.usd ? NO_PRICE : costWords(job)],
    ]),
  );
}

function batchLine(batch, open) {
  const opener = el("button.open", { type: "button", onclick: () => open(batch) }, foreign(batch.id));
  return el(
    "tr",
    {},
    el("td", {}, badge(batch)),
    el("td", {}, opener),
    el("td.number", {}, ...progressBar(batch)),
  );
}

function batches(job, open) {
  return section(
    `Batches (${number(job.batches.length)})`,
    el("table.batches", { "aria-label": "Batches of the job" }, el("tbody", {}, ...job.batches.map((one) => batchLine(one, open)))),
  );
}

function errorsOf({ errors = {}, errors_total: total = 0 }) {
  const groups = Object.entries(errors);
  if (!groups.length) return null;
  const items = groups.map(([code, { count, message, custom_id: row }]) =>
    el(
      "li",
      {},
      el("strong", {}, foreign(code)),
      el("span.muted", {}, ` ${number(count)} ${count === 1 ? "row" : "rows"}, first `, foreign(row)),
      el("p", {}, foreign(message)),
    ),
  );
  const title = total > groups.length ? `Errors (${groups.length} of ${number(total)} kinds)` : "Errors";
  return section(title, el("ul.errors", {}, ...items));
}

function pricesOf({ cost }) {
  if (!cost?.items?.length) return null;
  const line = ({ model, way, usd, tokens }) =>
    el(
      "tr",
      {},
      el("td", {}, foreign(model ?? "–")),
      el("td", {}, way),
      el("td.number", {}, number(tokens)),
      el("td.number", {}, money({ usd, is_known: true })),
    );
  const heads = ["Model", "Way", "Tokens", "Cost"].map((name, at) => el(at > 1 ? "th.number" : "th", { scope: "col" }, name));
  const table = el("table", { "aria-label": "Cost by model" }, el("thead", {}, el("tr", {}, ...heads)));
  table.append(el("tbody", {}, ...cost.items.map(line)));
  const missing = cost.unpriced?.length ? el("p.small", {}, `No price: ${cost.unpriced.join(", ")}.`) : null;
  return section(`Cost by model: ${money({ usd: cost.usd, is_known: cost.is_known })}`, table, missing);
}

function resultsOf(summary) {
  const parts = summary.parts ?? [];
  const more = (summary.parts_total ?? parts.length) - Math.min(parts.length, SHOWN_PARTS);
  const names = parts.slice(0, SHOWN_PARTS).flatMap((part, at) => (at ? [", ", foreign(part)] : [foreign(part)]));
  const counts = Object.entries(summary.counts ?? {}).filter(([, count]) => count);
  return section(
    "Results",
    pairs([
      ...counts.map(([status, count]) => [status.replaceAll("_", " "), number(count)]),
      ["Directory", summary.output_uri && foreign(summary.output_uri)],
      ["Parts", parts.length ? el("span", {}, ...names, more > 0 ? ` and ${number(more)} more` : "") : null],
      ["Table", summary.table && el("span", {}, foreign(summary.table.table), ` · ${number(summary.table.rows)} rows`)],
    ]),
  );
}

function summaryParts(summary) {
  return summary ? [resultsOf(summary), errorsOf(summary), pricesOf(summary)] : [];
}

export class JobPanel {
  /**
   * @param {{params: function(): Object, job: function(string): ?Object, now: function(): number,
   *     versions: function(): Object, openBatch: function(Object), ask: function(Object)}} page
   */
  constructor(page) {
    this.page = page;
    this.loads = 0;
    this.dialog = byId("job-panel");
    this.dialog.addEventListener("close", () => (this.key = null));
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
  }

  open(key) {
    this.key = key;
    this.drawn = null;
    this.summary = null;
    this.problem = null;
    this.head = el("div.head");
    this.body = el("div.body");
    this.dialog.replaceChildren(this.head, this.body);
    this.refresh();
    this.dialog.showModal();
  }

  /** Draw the job again if something changed; the summary is asked for anew when the task has ended. */
  refresh() {
    const job = this.key && this.page.job(this.key);
    if (!job || job === this.drawn) return;
    const had = this.drawn;
    this.drawn = job;
    this.draw(job);
    if (!had || had.task?.state !== job.task?.state) this.load(job);
  }

  async load(job) {
    if (!job.report && !job.task) return;
    this.loads += 1;
    const load = this.loads;
    const isLatest = () => this.key === job.id && this.loads === load;
    try {
      const { summary } = await sumUpJob({ ...this.page.params(), ...job.origin });
      if (!isLatest()) return;
      Object.assign(this, { summary, problem: null });
    } catch (problem) {
      if (!isLatest()) return;
      this.problem = problem.status === 403 ? null : problem;
    }
    this.draw(this.drawn);
  }

  drawHead(job) {
    const { origin } = job;
    const title = origin.dag_id ? `${origin.dag_id} · ${taskName(origin)}` : job.id;
    const button = (words, act, kind = "quiet") =>
      el(`button.button.${kind}`, { type: "button", autofocus: words === "Close", onclick: act }, words);
    const report = () => showBugReport(bugReport(this.drawn, this.page.versions(), this.page.now()));
    this.head.replaceChildren(
      stateBadge(job),
      el("h2", { id: "job-title" }, foreign(title)),
      el(
        "span.actions",
        {},
        job.may_cancel && button("Cancel job", () => this.page.ask(this.drawn), "danger"),
        button("Copy for a bug report", report),
        button("Close", () => this.dialog.close()),
      ),
    );
  }

  draw(job) {
    const note = job.note.text && el(`p${job.note.isAmiss ? ".amiss" : ""}`, {}, foreign(job.note.text));
    const problem = this.problem && el("p.amiss", { role: "alert" }, this.problem.message);
    const parts = [
      el("div.progress", {}, ...jobProgress(job)),
      note,
      figures(job, this.page.now()),
      madeBy(job),
      ...summaryParts(this.summary),
      problem,
      batches(job, this.page.openBatch),
    ];
    keepingFocus(this.dialog, () => {
      this.drawHead(job);
      this.body.replaceChildren(...parts.filter(Boolean));
    });
  }
}
