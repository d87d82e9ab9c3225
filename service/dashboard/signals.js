/** The signals that the server describes: those without a chart of their own get one each. */

import { get } from "./api.js";
import { count, decimal, milliseconds, percent } from "./format.js";

/** @typedef {{name: string, label: string, unit: string, better: string, meaning: string, charted: boolean}} Signal */

/** @type {Signal[]} empty until the server has answered */
let signals = [];

/** Ask the server which signals there are. */
export async function learnSignals() {
  try {
    ({ items: signals } = await get("v1/signals"));
    document.dispatchEvent(new Event("signals"));
  } catch {
    // The connection tells of itself.
  }
}

/** @type {Record<string, (value: number | null | undefined) => string>} */
const FORMATS = { share: percent, milliseconds, requests: count };

/**
 * Return a chart for each signal of a history that no other chart draws.
 *
 * @param {Set<string>} drawn columns that have a chart
 * @returns {import("./chart.js").ChartSpec[]}
 */
export function chartsOfOthers(drawn) {
  return signals
    .filter(({ name, charted }) => charted && !drawn.has(name))
    .map(({ name, label, unit, meaning }) => ({
      optional: true,
      title: label,
      hint: meaning,
      lines: [{ column: name, label }],
      format: FORMATS[unit] ?? ((/** @type {number | null | undefined} */ value) => decimal(value)),
      axis: (/** @type {number} */ value) => (FORMATS[unit] ?? decimal)(value),
      empty: "Not known yet.",
      ceiling: unit === "share" ? 1 : undefined,
    }));
}
