// Numbers and times as people read them. Times are Unix seconds.

import { followZone, zone } from "./zone.js";

const whole = new Intl.NumberFormat("en");
const cents = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const LATEST = 8.64e12; // the last second that a browser's calendar knows

function moments(timeZone) {
  const two = "2-digit";
  const day = { day: "numeric", month: "short", year: "numeric" };
  const time = { hour: two, minute: two, second: two, timeZoneName: "short" };
  return new Intl.DateTimeFormat("en-GB", { ...day, ...time, timeZone });
}

let inZone = moments(zone());
const inUtc = moments("UTC");
followZone(() => (inZone = moments(zone())));

export const number = (value) => whole.format(value);
export const short = (value) => (value < 10_000 ? whole.format(value) : compact.format(value));

const calendar = (format, seconds) => (Math.abs(seconds) <= LATEST ? format.format(seconds * 1000) : "–");
/** A moment in the user's zone, which it names. */
export const date = (seconds) => calendar(inZone, seconds);
export const dateUtc = (seconds) => calendar(inUtc, seconds);

export function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  const minutes = Math.round(s / 60);
  if (minutes < 60) return `${minutes} min`;
  const [hours, rest] = [Math.floor(minutes / 60), minutes % 60];
  if (hours < 24) return hours < 10 && rest ? `${hours} h ${rest} min` : `${hours} h`;
  const [days, left] = [Math.floor(hours / 24), hours % 24];
  return days < 10 && left ? `${days} d ${left} h` : `${days} d`;
}

export function age(seconds) {
  return seconds < 5 ? "now" : duration(seconds).split(" ").slice(0, 2).join(" ");
}

/** US dollars as the logs say them; below a cent with two digits that count. */
export function dollars(usd) {
  if (usd > 0 && usd < 0.01) return `$${usd < 0.0001 ? usd.toExponential(1) : Number(usd.toPrecision(2))}`;
  return `$${cents.format(usd)}`;
}

/** A cost, with "≥" if something is missing in it. */
export function money({ usd, is_known: isKnown }) {
  if (isKnown) return dollars(usd);
  return usd ? `≥ ${dollars(usd)}` : "unknown";
}

export function bytes(value) {
  const units = ["B", "kB", "MB", "GB"];
  let [size, unit] = [value, 0];
  while (size >= 1000 && unit < units.length - 1) [size, unit] = [size / 1000, unit + 1];
  return `${size < 10 && unit ? size.toFixed(1) : Math.round(size)} ${units[unit]}`;
}

/** How many requests of a batch are done and how many failed, as numbers and in percent. */
export function progress({ counts }) {
  const { total, completed, failed } = counts;
  const part = (value) => (total ? (100 * value) / total : 0);
  return { total, completed, failed, donePart: part(completed), failedPart: part(failed) };
}

/** The time left: an estimate from the pace so far, or else until the completion window closes. */
export function timeLeft(batch, now) {
  if (batch.is_over) {
    const known = batch.ended_at && batch.created_at;
    return known
      ? { text: `took ${duration(batch.ended_at - batch.created_at)}`, why: "" }
      : { text: "–", why: "" };
  }
  const window = batch.expires_at ? batch.expires_at - now : null;
  const end =
    window === null ? "" : window > 0 ? `The window closes in ${duration(window)}.` : "The window has closed.";
  const done = batch.counts.completed + batch.counts.failed;
  if (batch.status === "in_progress" && done && batch.in_progress_at && batch.counts.total >= done) {
    const pace = Math.max(1, now - batch.in_progress_at) / done;
    return { text: `≈ ${duration(pace * (batch.counts.total - done))}`, why: `At the pace so far. ${end}` };
  }
  if (window === null) return { text: "–", why: "" };
  return window > 0 ? { text: `≤ ${duration(window)}`, why: end } : { text: "overdue", why: end };
}

const GROUPS = { completed: "completed", failed: "failed", expired: "expired", cancelled: "cancelled" };
/** The filter that a batch belongs to; whatever is not over is running. */
export const group = (batch) => (batch.is_over ? (GROUPS[batch.status] ?? "failed") : "running");
export const words = (status) => status.replaceAll("_", " ");
