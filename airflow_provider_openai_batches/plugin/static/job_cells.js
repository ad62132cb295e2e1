// What a row shows of a job.

import { progressBar } from "./batch_cells.js";
import { el, foreign } from "./dom.js";
import { age, duration, money, number, short, words } from "./format.js";
import { paceOf } from "./jobs.js";
import { origin } from "./links.js";
import { moment } from "./time.js";

// The colour of a state: that of a batch's status.
const TONES = {
  complete: "completed",
  ended: "expired",
  "asked again": "expired",
  "waiting for room": "expired",
  "waiting to retry": "expired",
  running: "in_progress",
  "asked live": "in_progress",
  finishing: "in_progress",
  "about to start": "validating",
};

export function stateBadge({ state, is_over: isOver }) {
  const tone = TONES[state] ?? state;
  return el("span", { class: "badge", "data-status": tone, "data-over": String(isOver) }, words(state));
}

/** The id of the task with its map index, such as "ask [2]". */
export const taskName = ({ task_id: task, map_index: index }) => (index >= 0 ? `${task} [${index}]` : task);

/** Rows done of all, and how often rows were asked again. */
export function jobProgress(job) {
  const parts = progressBar({ counts: job.counts, is_over: job.is_over });
  if (job.rounds) parts.push(el("span.small", {}, ` · round ${number(job.rounds)}`));
  return parts;
}

export function noteLine({ note }) {
  return note.text && el(`span.small.block.note${note.isAmiss ? ".amiss" : ""}`, {}, foreign(note.text));
}

/** How long the job took; or, as an estimate from the pace so far, how long it still takes. */
export function jobTimeLeft(job, now) {
  if (job.is_over) {
    const known = job.ended_at && job.created_at;
    return { text: known ? `took ${duration(job.ended_at - job.created_at)}` : "–", why: "" };
  }
  const pace = paceOf(job, now);
  const left = job.counts.total - job.counts.completed - job.counts.failed;
  if (pace && left) return { text: `≈ ${duration(left / pace)}`, why: "At the pace so far." };
  if (!job.expires_at) return { text: "–", why: "" };
  if (job.planned > job.batches.length) return { text: "–", why: "Some of its batches are still to be submitted." };
  const window = job.expires_at - now;
  const why = "Until the window of its last batch closes.";
  return window > 0 ? { text: `≤ ${duration(window)}`, why } : { text: "overdue", why };
}

/** The cost so far, and what the whole job is estimated to cost. */
export function costWords(job) {
  const spent = job.cost.usd || job.is_over ? money(job.cost) : "–";
  if (job.is_over || !job.estimate?.usd) return spent;
  return `${spent} of ${job.estimate.is_known ? "≈ " : ""}${money(job.estimate)}`;
}

function titleCell(job, open) {
  const { dag, run, task } = origin(job);
  const named = dag && run && task;
  const opener = el(
    "button.open",
    { type: "button", title: named ? job.origin.dag_id : job.id, onclick: () => open(job.id) },
    named ? el("span.strong", {}, foreign(job.origin.dag_id)) : foreign(job.batches[0]?.id ?? job.id),
    named && el("span.unseen", {}, ", ", foreign(taskName(job.origin)), ", ", foreign(job.origin.run_id)),
  );
  if (!named) return [opener, el("span.line.small.muted", {}, "not made by a DAG")];
  return [opener, el("span.line.small", {}, task, " · ", run)];
}

function cancelCell(job, cancel) {
  if (!job.may_cancel) return [];
  const name = job.origin.dag_id ? `Cancel ${job.origin.dag_id}, ${taskName(job.origin)}` : `Cancel ${job.id}`;
  const attributes = { type: "button", "aria-label": name, onclick: () => cancel(job.id) };
  return [el("button.button.quiet", attributes, "Cancel")];
}

function jobCells(job, now, { open, cancel }) {
  const left = jobTimeLeft(job, now);
  const seconds = job.created_at ? now - job.created_at : null;
  const cost = costWords(job);
  return [
    ["status", `${job.state} ${job.is_over}`, () => [stateBadge(job)]],
    ["origin", JSON.stringify([job.origin, job.dag_known]), () => titleCell(job, open)],
    [
      "progress",
      JSON.stringify([job.counts, job.is_over, job.rounds, job.note]),
      () => [...jobProgress(job), noteLine(job)].filter(Boolean),
    ],
    ["time", left.text + left.why, () => [el("span", { title: left.why || null }, left.text)]],
    ["batches", `${job.ended}/${job.planned}`, () => [`${number(job.ended)} of ${number(job.planned)}`]],
    [
      "tokens",
      `${job.tokens} ${cost}`,
      () => [
        el("span.line", { title: cost }, cost),
        el("span.line.small.muted", {}, job.tokens ? `${short(job.tokens)} tokens` : ""),
      ],
    ],
    [
      "age",
      seconds === null ? "–" : age(seconds),
      () => [seconds === null ? "–" : moment(job.created_at, age(seconds))],
    ],
    ["actions", String(job.may_cancel), () => cancelCell(job, cancel)],
  ];
}

/** How a table shows jobs. */
export const jobKind = (handlers) => ({
  ...handlers,
  names: "origin",
  cells: (job, now) => jobCells(job, now, handlers),
  words: ({ origin: from, state, batches }) => [
    from.dag_id,
    from.run_id,
    from.task_id,
    state,
    ...new Set(batches.map((batch) => batch.model)),
    ...batches.map((batch) => batch.id),
  ],
});
