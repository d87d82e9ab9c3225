/** The columns of the table of streams: how each is sorted, shown and explained. */

import { BADGES, badge, isTrouble, rankOf } from "./badges.js";
import { h, setText } from "./dom.js";
import { agoElement, count, decimal, gap, percent, setAgo } from "./format.js";
import { withNames } from "./naming.js";
import { drawSparkline, trend } from "./sparkline.js";

/** @typedef {import("./store.js").Row} Row */

/**
 * @typedef {object} Column
 * @property {string} key
 * @property {string} title
 * @property {string} hint
 * @property {(row: Row) => string | number | null} value what is sorted by; null comes last either way
 * @property {boolean} [numeric] highest first at the first press, and aligned right
 * @property {(cell: HTMLElement, row: Row) => void} show put a row into its cell, which may hold an older row
 */

/** @param {(row: Row) => string} words @returns {Column["show"]} */
const text = (words) => (cell, row) => setText(cell, words(row));

/** @type {Column[]} */
export const COLUMNS = [
  {
    key: "badge",
    title: "State",
    hint: Object.values(BADGES)
      .map(({ word, meaning }) => `${word}: ${meaning.toLowerCase()}`)
      .join(". "),
    value: (row) => rankOf(row.badge),
    show(cell, row) {
      if (cell.dataset.shown === row.badge) return;
      cell.dataset.shown = row.badge;
      cell.replaceChildren(badge(row.badge));
    },
  },
  { key: "id", title: "Stream", hint: "Its name in requests", value: (row) => row.id, show: showName },
  {
    key: "model",
    title: "Model",
    hint: "The model that answers",
    value: (row) => row.model,
    show: text((row) => row.model),
  },
  {
    key: "adapter",
    title: "Adapter",
    hint: "The spec: how the model adapts",
    value: (row) => row.adapter,
    show: showAdapter,
  },
  {
    key: "mode",
    title: "Mode",
    hint: "adapt: learns. frozen: does not learn. shadow: learns, but answers as the source model",
    value: (row) => row.mode,
    show: text((row) => row.mode),
  },
  numeric("generation", "Generation", "Commits so far: steps, resets, restores", count),
  numeric("entropy", "Entropy", "Uncertainty of the newest answers, in nats; low means sure", (value) => decimal(value)),
  numeric("drift", "Drift", "Distance of the norm statistics from those of training", (value) => decimal(value)),
  numeric("agreement", "Agreement", "Share of answers equal to the source model's", percent),
  numeric("source_gap", "Source gap", "Accuracy on the probe set lost against the source model", gap),
  {
    key: "spark",
    title: "Recent entropy",
    hint: "The last 32 values; sorted by their increase",
    value: (row) => (row.spark.length > 1 ? row.spark[row.spark.length - 1] - row.spark[0] || 0 : null),
    numeric: true,
    show: showSpark,
  },
  {
    key: "last_used",
    title: "Last used",
    hint: "Time of the last request",
    value: (row) => row.last_used,
    numeric: true,
    show(cell, row) {
      if (cell.firstChild instanceof HTMLElement) setAgo(cell.firstChild, row.last_used);
      else cell.replaceChildren(agoElement(row.last_used));
    },
  },
];

/**
 * @param {"generation" | "entropy" | "drift" | "agreement" | "source_gap"} key
 * @param {string} title
 * @param {string} hint
 * @param {(value: number | null) => string} words
 * @returns {Column}
 */
function numeric(key, title, hint, words) {
  return { key, title, hint, numeric: true, value: (row) => row[key], show: text((row) => words(row[key])) };
}

/** @param {HTMLElement} cell @param {Row} row */
function showName(cell, row) {
  const said = isTrouble(row.badge) || row.badge === "drifting" ? withNames(row.reason, row.model) : "";
  if (!cell.firstChild) {
    const link = h("a", { href: `#/streams/${encodeURIComponent(row.id)}`, title: row.id }, row.id);
    cell.append(link, h("span", { class: "reason" }));
  }
  const reason = /** @type {HTMLElement} */ (cell.lastChild);
  setText(reason, said);
  reason.title = said;
}

/** The model stands below where there is no room for its column. @param {HTMLElement} cell @param {Row} row */
function showAdapter(cell, row) {
  if (!cell.firstChild) cell.append(h("span", { class: "spec" }), h("span", { class: "reason below" }));
  setText(/** @type {HTMLElement} */ (cell.firstChild), row.adapter);
  setText(/** @type {HTMLElement} */ (cell.lastChild), row.model);
  cell.title = row.adapter;
}

/** @param {HTMLElement} cell @param {Row} row */
function showSpark(cell, row) {
  if (!cell.firstChild) cell.append(h("canvas", { "aria-hidden": "true" }), h("span", { class: "sr-only" }));
  drawSparkline(/** @type {HTMLCanvasElement} */ (cell.firstChild), row.spark, row.badge);
  setText(/** @type {HTMLElement} */ (cell.lastChild), trend(row.spark));
}
