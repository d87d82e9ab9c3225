/** Say numbers, times and sizes as a reader expects them. */

import { h } from "./dom.js";

export const UNKNOWN = "–";
const UNBROKEN = "\u00a0"; // a number and its unit stay on one line

const whole = new Intl.NumberFormat("en");
const clockOfDay = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const clockToSecond = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const full = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });

/** @param {unknown} value @returns {value is number} */
export const known = (value) => typeof value === "number" && Number.isFinite(value);

/** @param {number | null | undefined} value */
export const count = (value) => (known(value) ? whole.format(value) : UNKNOWN);

/** @param {number | null | undefined} value @param {number} [digits] */
export const decimal = (value, digits = 3) => (known(value) ? value.toFixed(digits) : UNKNOWN);

/** @param {number | null | undefined} value a share, from 0 to 1 */
export const percent = (value) => (known(value) ? `${(value * 100).toFixed(1)}${UNBROKEN}%` : UNKNOWN);

/** @param {number | null | undefined} value a difference of shares */
export function points(value) {
  if (!known(value)) return UNKNOWN;
  const rounded = (value * 100).toFixed(1);
  if (Number(rounded) === 0) return `0.0${UNBROKEN}pts`;
  return `${value > 0 ? "+" : ""}${rounded.replace("-", "−")}${UNBROKEN}pts`;
}

/** Say an accuracy that was lost or gained, as what it is. @param {number | null | undefined} value above 0: lost */
export function gap(value) {
  if (!known(value)) return UNKNOWN;
  const size = Math.abs(value * 100).toFixed(1);
  if (Number(size) === 0) return "no difference";
  return `${size}${UNBROKEN}points ${value > 0 ? "worse" : "better"}`;
}

/** @param {number | null | undefined} value */
export const milliseconds = (value) => (known(value) ? `${value.toFixed(value < 10 ? 1 : 0)}${UNBROKEN}ms` : UNKNOWN);

/** @param {number | null | undefined} value */
export function bytes(value) {
  if (!known(value)) return UNKNOWN;
  const units = ["B", "kB", "MB", "GB"];
  const step = Math.min(units.length - 1, value < 1 ? 0 : Math.floor(Math.log10(value) / 3));
  const scaled = value / 1000 ** step;
  return `${scaled.toFixed(step === 0 || scaled >= 100 ? 0 : 1)}${UNBROKEN}${units[step]}`;
}

/** @param {number} amount @param {string} one @param {string} [many] */
export const plural = (amount, one, many = `${one}s`) => `${count(amount)} ${amount === 1 ? one : many}`;

/** Make words of the server a sentence. @param {string} words */
export function sentence(words) {
  const trimmed = words.trim().replace(/(\d) %/g, `$1${UNBROKEN}%`);
  if (!trimmed) return "";
  return `${trimmed[0].toUpperCase()}${trimmed.slice(1)}${/[.!?]$/.test(trimmed) ? "" : "."}`;
}

/** Say a moment by the clock, with the day where it is not today. @param {number} seconds @param {boolean} [exact] */
export function clock(seconds, exact = false) {
  const moment = new Date(seconds * 1000);
  const time = (exact ? clockToSecond : clockOfDay).format(moment);
  return moment.toDateString() === new Date().toDateString() ? time : `${day.format(moment)}, ${time}`;
}

/** Say how long ago a moment was. @param {number | null | undefined} seconds */
export function ago(seconds) {
  if (!known(seconds)) return UNKNOWN;
  const passed = Math.max(0, Date.now() / 1000 - seconds);
  if (passed < 5) return "just now";
  return `${duration(passed)} ago`;
}

/** @param {number} seconds */
export function duration(seconds) {
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} days`;
}

/** Return a relative time that keeps itself right. @param {number | null | undefined} seconds */
export function agoElement(seconds) {
  const element = h("time", {});
  setAgo(element, seconds);
  return element;
}

/** @param {Element} element @param {number | null | undefined} seconds */
export function setAgo(element, seconds) {
  const text = ago(seconds);
  if (element.textContent !== text) element.textContent = text;
  if (!known(seconds) || element.getAttribute("data-ago") === String(seconds)) return;
  element.setAttribute("data-ago", String(seconds));
  element.setAttribute("datetime", new Date(seconds * 1000).toISOString());
  element.setAttribute("title", full.format(new Date(seconds * 1000)));
}

/** Keep every relative time on the page right. */
export function keepTimesRight() {
  setInterval(() => {
    if (document.hidden) return;
    for (const element of document.querySelectorAll("time[data-ago]")) {
      setAgo(element, Number(element.getAttribute("data-ago")));
    }
  }, 5000);
}
