/** The badges of streams: their words, their order, and what each asks of the operator. */

import { h } from "./dom.js";
import { icon } from "./icons.js";

/** @typedef {"guarded" | "drifting" | "new" | "shadow" | "frozen" | "steady" | "resting"} Badge */

/** @type {Record<Badge, {word: string, rank: number, meaning: string}>} in order of urgency */
export const BADGES = {
  guarded: { word: "Guarded", rank: 0, meaning: "A guard acted recently: look here first" },
  drifting: { word: "Drifting", rank: 1, meaning: "The data changed recently" },
  new: { word: "New", rank: 2, meaning: "Too few requests to tell yet" },
  shadow: { word: "Shadow", rank: 3, meaning: "Answers as the source model and learns beside it" },
  frozen: { word: "Frozen", rank: 4, meaning: "Answers by its state and learns nothing" },
  steady: { word: "Steady", rank: 5, meaning: "Nothing to do" },
  resting: { word: "Resting", rank: 6, meaning: "In the store, and back at its next request" },
};

/** @param {string} badge */
export const rankOf = (badge) => BADGES[/** @type {Badge} */ (badge)]?.rank ?? 9;

/** @param {string} badge */
export const isTrouble = (badge) => badge === "guarded";

/** Return a badge; a sign and a word, so that colour is never the only carrier. @param {string} name */
export function badge(name) {
  const known = BADGES[/** @type {Badge} */ (name)];
  return h("span", { class: "badge", "data-badge": name, title: known?.meaning }, icon(name), known?.word ?? name);
}
