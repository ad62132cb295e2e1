// Moments as elements: they follow the zone that the user chooses while the page is open.

import { el, setText } from "./dom.js";
import { date, dateUtc } from "./format.js";
import { followZone } from "./zone.js";

function draw(element) {
  const seconds = Date.parse(element.dateTime) / 1000;
  const inZone = date(seconds);
  if (element.classList.contains("since")) {
    element.title = inZone;
    return;
  }
  setText(element, inZone);
  element.title = dateUtc(seconds);
}

/**
 * A moment in the user's zone, with UTC as its title.
 *
 * @param {number} seconds since 1970
 * @param {string} [since] is shown instead, and the moment becomes the title
 */
export function moment(seconds, since) {
  const at = new Date(seconds * 1000);
  if (Number.isNaN(at.getTime())) return since ?? "–";
  const element = el(since === undefined ? "time" : "time.since", { datetime: at.toISOString() }, since);
  draw(element);
  return element;
}

followZone(() => document.querySelectorAll("time").forEach(draw));
