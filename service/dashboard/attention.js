/** The streams in trouble, above all others, each with its reason and a link. */

import { badge, inTrouble, isTrouble } from "./badges.js";
import { h, refill } from "./dom.js";
import { agoElement, plural, sentence, setAgo } from "./format.js";
import { withNames } from "./naming.js";

const SHOWN = 3;

/** @typedef {import("./store.js").Row} Row */

/**
 * Show the streams that are in trouble, or nothing if there are none.
 *
 * @param {HTMLElement} element
 * @param {Iterable<Row>} rows
 * @param {Map<string, number>} counts
 */
export function attention(element, rows, counts) {
  const all = inTrouble(counts);
  const troubled = [];
  for (const row of rows) if (isTrouble(row.badge)) troubled.push(row);
  troubled.sort((a, b) => (a.id < b.id ? -1 : 1)); // by a figure that moves they would never stand still
  const first = troubled.slice(0, SHOWN);
  const state = JSON.stringify(first.map(({ id, reason }) => [id, reason]).concat([["", String(all)]]));
  // Cards whose words are the same stay, so that a focused one keeps the focus.
  if (element.dataset.shown === state) {
    const times = element.querySelectorAll("time");
    return first.forEach((row, i) => setAgo(times[i], row.last_used));
  }
  element.dataset.shown = state;
  element.hidden = all === 0;
  if (all === 0) return refill(element);
  const more =
    all > SHOWN ? h("p", { class: "hint" }, `${plural(all - SHOWN, "more stream")} in the table below.`) : null;
  refill(
    element,
    h("h2", {}, all === 1 ? "One stream is in trouble" : `${all} streams are in trouble`),
    h("ul", { class: "attention-cards" }, first.map(card)),
    more,
  );
}

/** @param {Row} row */
function card(row) {
  const reason = sentence(withNames(row.reason, row.model));
  return h(
    "li",
    {},
    h(
      "a",
      { class: "attention-card", href: `#/streams/${encodeURIComponent(row.id)}` },
      h("span", { class: "attention-name" }, badge(row.badge), h("strong", {}, row.id)),
      h("span", { class: "attention-reason" }, reason || "A guard acted on this stream."),
      h("span", { class: "hint" }, "Last request ", agoElement(row.last_used)),
      h("span", { class: "attention-go" }, "Open the stream"),
    ),
  );
}
