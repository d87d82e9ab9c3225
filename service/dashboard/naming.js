/** Replace class numbers and short signal names in the server's texts by full names. */

import { store } from "./store.js";

/** @type {Record<string, string>} the signals that detectors watch */
const SIGNALS = {
  entropy: "entropy of the answers",
  drift: "drift of the inputs",
  source_entropy: "entropy of the source model's answers",
  agreement: "agreement with the source model",
  prior_distance: "distance of the answered classes from the prior",
  parameter_distance: "distance of the learned parameters from the source's",
};
const ALARM = new RegExp(`\\b(${Object.keys(SIGNALS).join("|")})(?= (?:rose|fell) from )`, "g");

/**
 * @param {string} words such as "class 3 takes 45 % of the answers", "source_entropy rose from 0.1 to 0.8"
 * @param {string | null} model
 * @returns {string}
 */
export function withNames(words, model) {
  const classes = store.models.find(({ name }) => name === model)?.classes ?? [];
  return words
    .replace(/\bclass (\d+)\b/g, (said, number) => classes[Number(number)] ?? said)
    .replace(ALARM, (signal) => SIGNALS[signal]);
}
