/** The badges of streams: their labels, their order, and their meanings. */

import { h } from "./dom.js";
import { icon } from "./icons.js";

/** @typedef {"held" | "suspected" | "guarded" | "drifting" | "new" | "shadow" | "frozen" | "steady" | "resting"} Badge */

/** @type {Record<Badge, {word: string, rank: number, meaning: string}>} in order of urgency */
export const BADGES = {
  held: { word: "Held back", rank: 0, meaning: "Its learning steps ended the server's process; it does not learn until you let it adapt" },
  suspected: { word: "Harm suspected", rank: 1, meaning: "Seems to answer worse than its source model: look here first" },
  guarded: { word: "Guarded", rank: 2, meaning: "A guard acted recently" },
  drifting: { word: "Drifting", rank: 3, meaning: "The data changed recently" },
  new: { word: "New", rank: 4, meaning: "Too few requests to judge it" },
  shadow: { word: "Shadow", rank: 5, meaning: "Answers as the source model, and learns without effect on the answers" },
  frozen: { word: "Frozen", rank: 6, meaning: "Answers from its present state, and does not learn" },
  steady: { word: "Steady", rank: 7, meaning: "Nothing to do" },
  resting: { word: "Resting", rank: 8, meaning: "In the store; its next request loads it" },
};

const TROUBLE = ["held", "suspected", "guarded"];

/** @param {string} badge */
export const rankOf = (badge) => BADGES[/** @type {Badge} */ (badge)]?.rank ?? 9;

/** @param {string} badge */
export const isTrouble = (badge) => TROUBLE.includes(badge);

/** How many streams are in trouble. @param {Map<string, number>} counts by badge */
export const inTrouble = (counts) => TROUBLE.reduce((sum, badge) => sum + (counts.get(badge) ?? 0), 0);

/** Return a badge; a sign and a word, so that colour is never the only carrier. @param {string} name */
export function badge(name) {
  const known = BADGES[/** @type {Badge} */ (name)];
  return h("span", { class: "badge", "data-badge": name, title: known?.meaning }, icon(name), known?.word ?? name);
}
