// What a row shows of a batch.

import { el, foreign } from "./dom.js";
import { age, number, progress, short, timeLeft, words } from "./format.js";
import { origin } from "./links.js";
import { moment } from "./time.js";

export function badge({ status, is_over: isOver }) {
  return el("span", { class: "badge", "data-status": status, "data-over": String(isOver) }, words(status));
}

export function progressBar(batch) {
  const { total, completed, failed, donePart, failedPart } = progress(batch);
  const counted = total
    ? `${number(completed)} of ${number(total)}`
    : batch.is_over
      ? "nothing ran"
      : "not counted yet";
  const bar = el("span.bar", {
    role: "progressbar",
    "aria-label": total ? `${counted} requests done, ${number(failed)} failed` : `Requests: ${counted}`,
    "aria-valuemin": 0,
    "aria-valuemax": total || 1,
    "aria-valuenow": total ? Math.min(total, completed + failed) : null,
  });
  for (const [kind, part] of [
    ["done", donePart],
    ["failed", failedPart],
  ]) {
    const piece = el(`span.${kind}`);
    piece.style.width = `${Math.min(100, part)}%`;
    bar.append(piece);
  }
  const amiss = failed ? el("span.amiss", {}, ` · ${number(failed)} failed`) : null;
  return [bar, el("span.small", { "aria-hidden": "true" }, counted, amiss)]; // it is the bar's name
}

function originCell(batch) {
  const { dag, run, task } = origin(batch);
  if (!dag) return [el("span.small.muted", {}, "not made by a DAG")];
  const below = [task, run].filter(Boolean).flatMap((part, at) => (at ? [" · ", part] : [part]));
  return [el("span.line.strong", {}, dag), el("span.line.small", {}, ...below)];
}

/** Each cell: its name, the data that it shows, and its content, redrawn only if the data changes. */
function batchCells(batch, now, handlers) {
  const left = timeLeft(batch, now);
  const seconds = batch.created_at ? now - batch.created_at : null;
  return [
    ["status", batch.status, () => [badge(batch)]],
    [
      "id",
      batch.id,
      () => [
        el(
          "button.open",
          { type: "button", title: batch.id, onclick: () => handlers.open(batch.id) },
          foreign(batch.id),
        ),
      ],
    ],
    ["origin", JSON.stringify([batch.origin, batch.dag_known]), () => originCell(batch)],
    ["progress", JSON.stringify([batch.counts, batch.is_over]), () => progressBar(batch)],
    ["time", left.text + left.why, () => [el("span", { title: left.why || null }, left.text)]],
    [
      "model",
      `${batch.model} ${batch.endpoint}`,
      () => [
        el("span.line", { title: batch.model }, batch.model ? foreign(batch.model) : "–"),
        el("span.line.small.muted", { title: batch.endpoint }, batch.endpoint ? foreign(batch.endpoint) : ""),
      ],
    ],
    [
      "tokens",
      `${batch.tokens?.total} ${batch.cost}`,
      () =>
        batch.tokens
          ? [
              el("span.line", { title: `${number(batch.tokens.total)} tokens` }, short(batch.tokens.total)),
              el("span.line.small.muted", { title: batch.cost }, batch.cost),
            ]
          : ["–"],
    ],
    [
      "age",
      seconds === null ? "–" : age(seconds),
      () => [seconds === null ? "–" : moment(batch.created_at, age(seconds))],
    ],
    [
      "actions",
      String(batch.may_cancel),
      () =>
        [
          batch.may_cancel &&
            el(
              "button.button.quiet",
              {
                type: "button",
                "aria-label": `Cancel ${batch.id}`,
                onclick: () => handlers.cancel(batch.id),
              },
              "Cancel",
            ),
        ].filter(Boolean),
    ],
  ];
}

/** How a table shows batches. */
export const batchKind = (handlers) => ({
  ...handlers,
  names: "id",
  cells: (batch, now) => batchCells(batch, now, handlers),
  words: ({ id, model, endpoint, origin: from }) => [
    id,
    model,
    endpoint,
    from.dag_id,
    from.run_id,
    from.task_id,
  ],
});
