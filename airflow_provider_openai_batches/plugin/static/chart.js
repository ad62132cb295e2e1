// Bars by day, stacked by DAG or model, drawn as SVG. The slider below them goes from day to day, and so does the mouse.

import { byId, el, foreign, setText, svg } from "./dom.js";
import { dollars, money, number, short } from "./format.js";

const HEIGHT = 190;
const ABOVE = 14; // the highest label stands half above its line
const BELOW = 22; // the labels of days
const LETTER = 7; // pixels at most
const THUMB = 16; // the width of the slider's
const LEAST = 2; // pixels of a day that would not be seen beside a large one
const KINDS = { usd: "Cost", requests: "Requests" };

const shortDay = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });
const fullDay = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "long", year: "numeric", timeZone: "UTC" });
const weekday = new Intl.DateTimeFormat("en-GB", { weekday: "long", timeZone: "UTC" });
const noted = (day) => shortDay.format(new Date(`${day}T00:00:00Z`));
const written = (day) => [weekday, fullDay].map((format) => format.format(new Date(`${day}T00:00:00Z`))).join(" ");
const sum = (values) => values.reduce((total, value) => total + value, 0);

/** Round steps of an axis, from 0 to at least the highest value. */
export function ticks(highest, whole) {
  const size = 10 ** Math.floor(Math.log10(highest / 3));
  const step = [1, 2, 5, 10].map((times) => times * size).find((one) => highest / one <= 4);
  const round = whole ? Math.max(1, step) : step;
  return Array.from({ length: Math.ceil(highest / round - 1e-9) + 1 }, (_, at) => at * round);
}

export class Chart {
  constructor() {
    this.kind = "usd";
    this.width = 0;
    this.found = null;
    const choice = (kind) =>
      el("button.chip", { type: "button", "data-kind": kind, onclick: () => this.choose(kind) }, KINDS[kind]);
    this.choices = el("span.chips", { role: "group", "aria-label": "Bars show" }, ...Object.keys(KINDS).map(choice));
    this.title = el("span.strong");
    this.plot = el("div.plot");
    this.slider = el("input", { id: "day", type: "range", min: 0, step: 1, "aria-label": "Day", oninput: () => this.pick() });
    this.figures = el("p.figures");
    this.legend = el("ul.legend");
    this.note = el("p.small");
    const says = el("p.unseen", { id: "chart-says" });
    this.says = says;
    const head = el("figcaption", {}, this.title, this.choices);
    byId("chart").replaceChildren(head, this.plot, this.slider, this.figures, this.legend, this.note, says);
    this.plot.addEventListener("pointermove", (event) => this.point(event));
    this.plot.addEventListener("pointerdown", (event) => this.point(event));
    new ResizeObserver(() => this.plot.clientWidth !== this.width && this.draw()).observe(this.plot);
  }

  /** @param {Object} [found] the answer of costs/days; without it, or if nothing is in it, there is no chart */
  show(found, by) {
    const isOther = this.found?.days.length !== found?.days.length;
    this.found = found;
    this.by = by;
    const isEmpty = !found?.series.some((one) => [...one.usd, ...one.requests].some(Boolean));
    byId("chart").hidden = isEmpty;
    if (isEmpty) return;
    this.slider.max = found.days.length - 1;
    this.slider.hidden = found.days.length === 1;
    const has = (at) => found.series.some((one) => one.usd[at] || one.requests[at]);
    if (isOther) this.slider.value = found.days.findLastIndex((_, at) => has(at));
    this.draw();
  }

  choose(kind) {
    this.kind = kind;
    this.draw();
  }

  name(one) {
    if (one.others) return "all others";
    return one.name ?? (this.by === "dag" ? "not made by a DAG" : "no model");
  }

  /** What some series have, on one day or on all, in words. */
  amount(series, at) {
    const values = (kind) => series.flatMap((one) => one[kind].slice(at, at === undefined ? undefined : at + 1));
    const [usd, requests] = [sum(values("usd")), sum(values("requests"))];
    if (this.kind === "requests") return number(requests);
    return money({ usd, is_known: this.found.is_known || !requests });
  }

  draw() {
    if (byId("chart").hidden) return;
    const { days, series, is_known: isKnown } = this.found;
    this.totals = days.map((_, at) => sum(series.map((one) => one[this.kind][at])));
    const what = `${KINDS[this.kind]} by day (UTC) and ${this.by === "dag" ? "DAG" : "model"}`;
    setText(this.title, what);
    for (const chip of this.choices.children) chip.setAttribute("aria-pressed", String(chip.dataset.kind === this.kind));
    this.width = this.plot.clientWidth;
    const highest = Math.max(...this.totals);
    const nothing = this.kind === "usd" ? "No cost is known." : "No request was completed.";
    this.plot.replaceChildren(highest ? this.bars(what, highest) : el("p.small", {}, nothing));
    const most = this.totals.indexOf(highest);
    const span = `${days.length} days, from ${written(days[0])} to ${written(days.at(-1))}`;
    setText(
      this.says,
      `${days.length === 1 ? written(days[0]) : span}. In all ${this.amount(series)}; the most on ` +
        `${noted(days[most])}: ${this.amount(series, most)}. The table below has the sums; by day, it has each day's.`,
    );
    const isPart = this.kind === "usd" && !isKnown;
    setText(this.note, isPart ? "≥: the cost of some batches is unknown, and not in the bars." : "");
    this.pick();
  }

  bars(what, highest) {
    const { days } = this.found;
    const lines = ticks(highest, this.kind === "requests");
    const cost = (value) => (lines[1] < 1 ? dollars(value) : `$${short(value)}`);
    const label = this.kind === "requests" ? short : cost;
    this.left = LETTER * Math.max(...lines.map((value) => label(value).length)) + 8;
    this.slot = Math.max(1, this.width - this.left) / days.length;
    this.scale = (HEIGHT - ABOVE - BELOW) / lines.at(-1);
    const base = HEIGHT - BELOW;
    const axis = lines.flatMap((value) => {
      const y = base - value * this.scale;
      const line = svg("line.grid", { x1: this.left, x2: this.width, y1: y, y2: y });
      return [line, svg("text", { x: this.left - 8, y: y + 4, "text-anchor": "end" }, label(value))];
    });
    const every = Math.ceil(64 / this.slot);
    const names = days.flatMap((day, at) => {
      if ((days.length - 1 - at) % every) return [];
      const x = Math.min(this.middle(at), this.width - 3 * LETTER);
      return svg("text", { x, y: HEIGHT - 6, "text-anchor": "middle" }, noted(day));
    });
    this.band = svg("rect.band", { y: 0, width: days.length > 1 ? this.slot : 0, height: base });
    // From the middle of the first day to the middle of the last one.
    this.slider.style.marginLeft = `${this.left + this.slot / 2 - THUMB / 2}px`;
    this.slider.style.width = `${this.slot * (days.length - 1) + THUMB}px`;
    const size = { viewBox: `0 0 ${this.width} ${HEIGHT}`, height: HEIGHT };
    const named = { role: "img", "aria-label": what, "aria-describedby": "chart-says" };
    return svg("svg", { ...size, ...named }, this.band, ...axis, ...names, ...days.flatMap((_, at) => this.bar(at, base)));
  }

  middle(at) {
    return this.left + this.slot * (at + 0.5);
  }

  /** The parts of one day, the largest series at the bottom. */
  bar(at, base) {
    const { days, series } = this.found;
    const width = Math.max(2, Math.min(44, this.slot * 0.72));
    const seen = series.map((one, index) => ({ one, index, value: one[this.kind][at] })).filter(({ value }) => value > 0);
    const least = this.totals[at] * this.scale < LEAST;
    const parts = least ? [seen.reduce((most, next) => (next.value > most.value ? next : most), seen[0])] : seen;
    let y = base;
    return parts.filter(Boolean).map(({ one, index, value }) => {
      const height = least ? LEAST : value * this.scale;
      y -= height;
      const title = svg("title", {}, `${this.name(one)}, ${noted(days[at])}: ${this.amount([one], at)}`);
      const apart = height > 3 ? ".apart" : ""; // a line of the ground's colour around it
      return svg(`rect.series.s${index}${apart}`, { x: this.middle(at) - width / 2, y, width, height }, title);
    });
  }

  point(event) {
    if (!this.totals.some(Boolean)) return;
    const x = event.clientX - this.plot.getBoundingClientRect().left - this.left;
    this.slider.value = Math.floor(x / this.slot); // the slider keeps it within the days
    this.pick();
  }

  /** Show the figures of the slider's day. */
  pick() {
    const { days, series } = this.found;
    const at = Number(this.slider.value);
    const day = written(days[at]);
    const total = this.amount(series, at);
    this.band?.setAttribute("x", this.left + this.slot * at);
    this.figures.replaceChildren(el("strong", {}, day), ` ${total}${this.kind === "requests" ? " requests" : ""}`);
    const values = series.map((one) => [this.name(one), this.amount([one], at)]);
    const parts = values.filter((_, index) => series[index].requests[at]).map((pair) => pair.join(" "));
    this.slider.setAttribute("aria-valuetext", [`${day}: ${total}`, ...parts].join("; "));
    const item = ([name, value], index) =>
      el("li", {}, el(`span.swatch.s${index}`), foreign(name), el("span.number", {}, value));
    this.legend.replaceChildren(...values.map(item));
  }
}
