/** What a stream is: its newest figures as tiles, its settings as a list. */

import { fill, h } from "./dom.js";
import { agoElement, bytes, count, decimal, milliseconds, percent, points } from "./format.js";

/** @typedef {import("./change.js").View} View */
/** @typedef {import("./series.js").History} History */

/** @type {[string, string, (value: number | null) => string, string][]} */
const TILES = [
  ["entropy", "Entropy", (value) => decimal(value), "nats"],
  ["drift", "Drift", (value) => decimal(value), "from training"],
  ["agreement", "Agreement", percent, "with the source"],
  ["source_gap", "Source gap", points, "on the probe set"],
  ["forgetting", "Forgetting", points, "by learning"],
  ["estimated_accuracy", "Accuracy", percent, "estimated"],
  ["selected_ratio", "Selected", percent, "of images"],
  ["milliseconds", "Latency", milliseconds, "per request"],
];

/** @param {HTMLElement} element @param {History} history */
export function showTiles(element, history) {
  fill(
    element,
    TILES.map(([column, title, format, under]) => {
      const value = history.latest(column);
      return h("div", { class: "tile" }, h("dt", {}, title), h("dd", {}, format(value), h("small", {}, value === null ? "not known yet" : under)));
    }),
  );
}

/** @param {HTMLElement} element @param {View} view @param {History} history */
export function showFacts(element, view, history) {
  const fact = (/** @type {string} */ title, /** @type {any} */ value) => h("div", {}, h("dt", {}, title), h("dd", {}, value));
  const behind = view.generation - view.durable_generation;
  const onDisk = view.durable_generation === 0 ? "nothing yet" : behind > 0 ? `${count(view.durable_generation)} (${count(behind)} behind)` : "all of it";
  const { probe } = history;
  fill(
    element,
    fact("Model", view.model),
    fact("Adapter", h("code", {}, view.adapter)),
    fact("Mode", view.mode),
    fact("Generation", count(view.generation)),
    fact("On disk", onDisk),
    fact("Learning steps", count(view.steps)),
    fact("State", bytes(view.state_bytes)),
    fact("Adaptation batch", view.adapt_batch_size > 1 ? `${count(view.adapt_batch_size)} images, ${count(view.waiting_images)} wait` : "each request"),
    fact("Began", agoElement(view.created)),
    fact("Last used", agoElement(view.last_used)),
    fact("Last probe", probe ? [`${percent(probe.accuracy)} at generation ${count(probe.generation)}, `, agoElement(probe.time)] : "none yet"),
    fact("Guard", settings(view.guard ?? {})),
    fact("Options", settings(view.options ?? {})),
  );
}

/** Say settings as plain text. @param {Record<string, any>} values */
function settings(values) {
  const entries = Object.entries(values).filter(([, value]) => value !== null && value !== undefined);
  if (!entries.length) return "as by default";
  return h("ul", { class: "settings" }, entries.map(([name, value]) => h("li", {}, `${name.replaceAll("_", " ")}: ${said(value)}`)));
}

/** @param {any} value @returns {string} */
function said(value) {
  if (value === null || typeof value !== "object") return String(value);
  if (Array.isArray(value)) return value.map(said).join(", ");
  return Object.entries(value).map(([name, inner]) => `${name} ${said(inner)}`).join(", ");
}
