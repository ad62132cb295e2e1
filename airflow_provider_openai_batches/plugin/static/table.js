// The table: rows in groups of one page each, so that the browser need not draw groups that are out of view.

import { el, foreign } from "./dom.js";
import { age, number, progress, short, timeLeft, words } from "./format.js";
import { origin } from "./links.js";
import { moment } from "./time.js";

export function badge(batch) {
  return el(
    "span",
    { class: "badge", "data-status": batch.status, "data-over": String(batch.is_over) },
    words(batch.status),
  );
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
  return [bar, el("span.small", { "aria-hidden": "true" }, counted, amiss)];
}

function originCell(batch) {
  const { dag, run, task } = origin(batch);
  if (!dag) return [el("span.small.muted", {}, "not made by a DAG")];
  const below = [task, run].filter(Boolean).flatMap((part, at) => (at ? [" · ", part] : [part]));
  return [el("span.line.strong", {}, dag), el("span.line.small", {}, ...below)];
}

/** Each cell: its name, the data that it shows, and its content, redrawn only if the data changes. */
function cells(batch, now, handlers) {
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

class Row {
  constructor(batch, now, handlers) {
    this.handlers = handlers;
    this.made = {};
    this.parts = {};
    this.element = el("div.row", {
      role: "row",
      "data-id": batch.id,
      onclick: (event) => this.clicked(event),
    });
    this.update(batch, now);
  }

  update(batch, now) {
    this.batch = batch;
    this.haystack = [
      batch.id,
      batch.model,
      batch.endpoint,
      batch.origin.dag_id,
      batch.origin.run_id,
      batch.origin.task_id,
    ]
      .join("\n")
      .toLowerCase();
    for (const [name, key, make] of cells(batch, now, this.handlers)) {
      if (this.made[name] === key) continue;
      this.made[name] = key;
      this.parts[name] ??= this.element.appendChild(el(`span.cell.${name}`, { role: name === "id" ? "rowheader" : "cell" }));
      this.parts[name].replaceChildren(...make());
    }
  }

  clicked(event) {
    if (event.target.closest("a, button") || String(getSelection())) return;
    this.handlers.open(this.batch.id);
  }
}

/** Hide a group without visible rows as a whole: that is much faster than hiding each row. */
function showGroup(group, rows, count) {
  if (group.hidden === count > 0) group.hidden = count === 0;
  if (!count) return;
  group.style.setProperty("--rows", count);
  for (const row of rows) if (row.element.hidden === row.shown) row.element.hidden = !row.shown;
}

export class Table {
  /** @param {{open: function(string), cancel: function(string)}} handlers are given a batch's id */
  constructor(element, handlers) {
    this.element = element;
    this.handlers = handlers;
    this.rows = new Map();
    element.addEventListener("keydown", (event) => this.walk(event));
  }

  clear() {
    this.rows.clear();
    for (const group of this.element.querySelectorAll(".group")) group.remove();
  }

  /** Older batches, below all others. */
  append(batches, now) {
    const group = this.element.appendChild(el("div.group", { role: "rowgroup" }));
    this.addTo(group, batches, now, null);
  }

  /** Newer batches, above all others. */
  prepend(batches, now) {
    const group = this.element.querySelector(".group");
    this.addTo(group, batches, now, group.firstChild);
  }

  addTo(group, batches, now, before) {
    for (const batch of batches) {
      if (this.rows.has(batch.id)) continue;
      const row = new Row(batch, now, this.handlers);
      row.group = group;
      this.rows.set(batch.id, row);
      group.insertBefore(row.element, before);
    }
  }

  update(batch, now) {
    this.rows.get(batch.id)?.update(batch, now);
  }

  tick(now) {
    for (const row of this.rows.values()) if (row.shown) row.update(row.batch, now);
  }

  get(id) {
    return this.rows.get(id)?.batch;
  }

  get batches() {
    return [...this.rows.values()].map((row) => row.batch);
  }

  /** Show only the rows that pass; returns their batches. */
  filter(passes) {
    const shown = [];
    const groups = Map.groupBy(this.rows.values(), (row) => row.group);
    for (const [group, rows] of groups) {
      const before = shown.length;
      for (const row of rows) {
        row.shown = passes(row.batch, row.haystack);
        if (row.shown) shown.push(row.batch);
      }
      showGroup(group, rows, shown.length - before);
    }
    return shown;
  }

  /** Arrow keys move from row to row. */
  walk(event) {
    const steps = { ArrowDown: 1, ArrowUp: -1, Home: -Infinity, End: Infinity };
    if (!(event.key in steps) || !event.target.matches("button, a")) return;
    const buttons = [...this.element.querySelectorAll(".group:not([hidden]) .row:not([hidden]) .open")];
    const at = buttons.indexOf(event.target.closest(".row")?.querySelector(".open"));
    const next = buttons[Math.min(buttons.length - 1, Math.max(0, at + steps[event.key]))];
    event.preventDefault();
    next?.focus();
  }
}
