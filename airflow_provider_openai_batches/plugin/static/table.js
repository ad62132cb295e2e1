// A table of batches or jobs: rows in groups of one page each, so that the browser need not draw groups out of view.

import { el } from "./dom.js";

class Row {
  constructor(item, now, kind) {
    this.kind = kind;
    this.made = {};
    this.parts = {};
    this.element = el("div.row", {
      role: "row",
      "data-id": item.id,
      onclick: (event) => this.clicked(event),
    });
    this.update(item, now);
  }

  update(item, now) {
    this.item = item;
    this.haystack = this.kind.words(item).join("\n").toLowerCase();
    for (const [name, key, make] of this.kind.cells(item, now)) {
      if (this.made[name] === key) continue;
      this.made[name] = key;
      this.parts[name] ??= this.element.appendChild(el(`span.cell.${name}`, { role: name === this.kind.names ? "rowheader" : "cell" }));
      this.parts[name].replaceChildren(...make());
    }
  }

  clicked(event) {
    if (event.target.closest("a, button") || String(getSelection())) return;
    this.element.querySelector(".open").focus(); // it comes back here
    this.kind.open(this.item.id);
  }
}

/** Put a row where it belongs; what has the focus in it would lose it. */
function insert(group, row, next) {
  const focused = row.contains(document.activeElement) ? document.activeElement : null;
  group.insertBefore(row, next);
  focused?.focus();
}

/** Hide a group without visible rows as a whole: that is much faster than hiding each row. */
function showGroup(group, rows, count) {
  if (group.hidden === count > 0) group.hidden = count === 0;
  if (!count) return;
  group.style.setProperty("--rows", count);
  for (const row of rows) if (row.element.hidden === row.shown) row.element.hidden = !row.shown;
}

export class Table {
  /**
   * @param {{cells: function(Object, number): Array, words: function(Object): Array, open: function(string)}} kind
   *     what a row shows, by what words it is found, and what a click on it does
   */
  constructor(element, kind) {
    this.element = element;
    this.kind = kind;
    this.clear();
    element.addEventListener("keydown", (event) => this.walk(event));
  }

  clear() {
    this.rows = new Map();
    this.groups = [];
    for (const group of this.element.querySelectorAll(".group")) group.remove();
  }

  /** Show these items, a group for each page; what did not change is left as it is. */
  show(pages, now) {
    for (const [at, items] of pages.entries()) {
      this.groups[at] ??= this.element.appendChild(el("div.group", { role: "rowgroup" }));
      this.fill(this.groups[at], items, now);
    }
    const ids = new Set(pages.flatMap((items) => items.map((item) => item.id)));
    for (const [id, row] of this.rows) {
      if (ids.has(id)) continue;
      row.element.remove();
      this.rows.delete(id);
    }
  }

  fill(group, items, now) {
    let next = group.firstChild;
    for (const item of items) {
      const row = this.rowOf(item, now);
      row.group = group;
      if (row.element === next) next = next.nextSibling;
      else insert(group, row.element, next);
    }
  }

  rowOf(item, now) {
    const known = this.rows.get(item.id);
    if (!known) this.rows.set(item.id, new Row(item, now, this.kind));
    else if (known.item !== item) known.update(item, now);
    return this.rows.get(item.id);
  }

  tick(now) {
    for (const row of this.rows.values()) if (row.shown) row.update(row.item, now);
  }

  /** Show only the rows that pass; returns their items. */
  filter(passes) {
    const shown = [];
    const groups = Map.groupBy(this.rows.values(), (row) => row.group);
    for (const [group, rows] of groups) {
      const before = shown.length;
      for (const row of rows) {
        row.shown = passes(row.item, row.haystack);
        if (row.shown) shown.push(row.item);
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
