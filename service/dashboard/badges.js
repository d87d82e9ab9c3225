/** The badges of streams: their words, their order, and what each asks of the operator. */

import { h } from "./dom.js";
import { icon } from "./icons.js";

/** @typedef {"suspected" | "guarded" | "drifting" | "new" | "shadow" | "frozen" | "steady" | "resting"} Badge */

/** @type {Record<Badge, {word: string, rank: number, meaning: string}>} in order of urgency */
export const BADGES = {
  suspected: { word: "Harm suspected", rank: 0, meaning: "Seems to answer worse than its source model: look here first" },
  guarded: { word: "Guarded", rank: 1, meaning: "A guard acted recently" },
  drifting: { word: "Drifting", rank: 2, meaning: "The data changed recently" },
  new: { word: "New", rank: 3, meaning: "Too few requests to say how it does" },
  shadow: { word: "Shadow", rank: 4, meaning: "Answers as the source model and learns beside it" },
  frozen: { word: "Frozen", rank: 5, meaning: "Answers by its state and learns nothing" },
  steady: { word: "Steady", rank: 6, meaning: "Nothing to do" },
  resting: { word: "Resting", rank: 7, meaning: "In the store, and back at its next request" },
};

/** @param {string} badge */
export const rankOf = (badge) => BADGES[/** @type {Badge} */ (badge)]?.rank ?? 9;

/** @param {string} badge */
export const isTrouble = (badge) => badge === "suspected" || badge === "guarded";

/** How many streams are in trouble. @param {Map<string, number>} counts by badge */
export const inTrouble = (counts) => (counts.get("suspected") ?? 0) + (counts.get("guarded") ?? 0);

/** Return a badge; a sign and a word, so that colour is never the only carrier. @param {string} name */
export function badge(name) {
  const known = BADGES[/** @type {Badge} */ (name)];
  return h("span", { class: "badge", "data-badge": name, title: known?.meaning }, icon(name), known?.word ?? name);
}
