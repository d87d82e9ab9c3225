/** Which streams are shown and in what order: pure functions of the rows and of what was asked. */

import { COLUMNS } from "./columns.js";

/** @typedef {import("./store.js").Row} Row */
/** @typedef {{text: string, badge: string, sort: string, descending: boolean}} Asked */

const collator = new Intl.Collator("en", { numeric: true });

/**
 * Return the rows to show, in order.
 *
 * @param {Iterable<Row>} rows
 * @param {Asked} asked
 * @returns {Row[]}
 */
export function arranged(rows, asked) {
  const words = asked.text.toLowerCase().split(/\s+/).filter(Boolean);
  const kept = [];
  for (const row of rows) {
    if (asked.badge && row.badge !== asked.badge) continue;
    if (words.length && !matches(row, words)) continue;
    kept.push(row);
  }
  const column = COLUMNS.find(({ key }) => key === asked.sort) ?? COLUMNS[0];
  const keyed = kept.map((row) => ({ row, value: column.value(row) }));
  keyed.sort((a, b) => compare(a.value, b.value, asked.descending) || byId(a.row, b.row));
  return keyed.map(({ row }) => row);
}

/** @param {Iterable<Row>} rows @returns {Map<string, number>} */
export function countBadges(rows) {
  const counts = new Map();
  for (const { badge } of rows) counts.set(badge, (counts.get(badge) ?? 0) + 1);
  return counts;
}

/** @param {Row} row @param {string[]} words */
function matches(row, words) {
  const text = `${row.id} ${row.model} ${row.adapter} ${row.mode} ${row.badge} ${row.reason}`.toLowerCase();
  return words.every((word) => text.includes(word));
}

/** @param {string | number | null} a @param {string | number | null} b @param {boolean} descending */
function compare(a, b, descending) {
  // What is not known comes last in both directions.
  if (a === null || b === null) return a === b ? 0 : a === null ? 1 : -1;
  const order = typeof a === "number" && typeof b === "number" ? a - b : collator.compare(String(a), String(b));
  return descending ? -order : order;
}

/** Plain comparison: a collator takes a second for 10,000 names. @param {Row} a @param {Row} b */
const byId = (a, b) => (a.id < b.id ? -1 : a.id > b.id ? 1 : 0);
