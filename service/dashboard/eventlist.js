/** One event in the list: its text, icon, stream and figures. */

import { h } from "./dom.js";
import { agoElement, clock, known, plural, sentence } from "./format.js";
import { icon } from "./icons.js";
import { withNames } from "./naming.js";

const FEW = 6; // figures that are shown without being asked for

/**
 * @typedef {object} Event
 * @property {number} id
 * @property {number} time
 * @property {string} kind
 * @property {string | null} stream
 * @property {string | null} model
 * @property {string} action
 * @property {string} reason
 * @property {Record<string, number>} figures
 */

/** @type {Record<string, {word: string, sign: string, tone: string}>} */
export const KINDS = {
  suspected: { word: "Suspected", sign: "suspected", tone: "bad" },
  guard: { word: "Guard", sign: "guarded", tone: "bad" },
  seen: { word: "Noticed", sign: "drifting", tone: "warn" },
  drift: { word: "Drift", sign: "drifting", tone: "warn" },
  settled: { word: "Settled", sign: "settled", tone: "" },
  created: { word: "Created", sign: "new", tone: "" },
  changed: { word: "Changed", sign: "event", tone: "" },
  reset: { word: "Reset", sign: "reset", tone: "accent" },
  snapshot: { word: "Snapshot", sign: "snapshot", tone: "accent" },
  snapshot_deleted: { word: "Removed", sign: "ended", tone: "" },
  uploaded: { word: "Uploaded", sign: "snapshot", tone: "" },
  restored: { word: "Restored", sign: "reset", tone: "accent" },
  resumed: { word: "Resumed", sign: "reset", tone: "" },
  labels: { word: "Labels", sign: "event", tone: "" },
  deleted: { word: "Ended", sign: "ended", tone: "" },
  ended: { word: "Expired", sign: "ended", tone: "" },
  held: { word: "Held back", sign: "held", tone: "bad" },
  fenced: { word: "Fenced", sign: "guarded", tone: "warn" },
  refused: { word: "Refused", sign: "guarded", tone: "warn" },
};

/** @param {string} kind */
export const kindOf = (kind) => KINDS[kind] ?? { word: kind, sign: "event", tone: "" };

/** @param {Event} event @param {boolean} named whether to name the stream */
export function eventItem(event, named) {
  const { word, sign, tone } = kindOf(event.kind);
  const link =
    named && event.stream ? h("a", { href: `#/streams/${encodeURIComponent(event.stream)}` }, event.stream) : null;
  return h(
    "li",
    { class: "event", "data-id": event.id, "data-tone": tone },
    h("span", { class: "event-kind" }, icon(sign), word),
    h("div", { class: "event-body" }, link, h("p", {}, wordsOf(event)), figures(event.figures ?? {})),
    h("span", { class: "event-time" }, h("span", {}, clock(event.time, true)), agoElement(event.time)),
  );
}

/** Say an event: what a guard did comes first, what it found second. @param {Event} event */
export function wordsOf({ kind, action, reason, model }) {
  const found = withNames(reason, model);
  const done = action.replaceAll("_", " ");
  // It begins with a name, which is no word to make a capital of.
  if (kind === "snapshot" || kind === "snapshot_deleted") return sentence(`Snapshot ${found}`);
  return sentence(kind === "guard" && done ? `${done}: ${found}` : found || done || kindOf(kind).word);
}

/** @param {Record<string, number>} values */
function figures(values) {
  const entries = Object.entries(values).filter(([, value]) => known(value));
  if (!entries.length) return null;
  const list = figureList(entries);
  return entries.length <= FEW ? list : h("details", {}, h("summary", {}, plural(entries.length, "figure")), list);
}

/** @param {[string, number][]} entries */
function figureList(entries) {
  return h(
    "p",
    { class: "figures" },
    entries.map(([name, value]) =>
      h("span", {}, `${name.replaceAll("_", " ")} `, h("b", {}, String(Number(value.toPrecision(4))))),
    ),
  );
}
