/** A stream's newest figures as tiles, and its settings as a list; both are made once and then updated. */

import { h, setText } from "./dom.js";
import { bytes, clock, count, decimal, duration, gap, milliseconds, percent } from "./format.js";

/** @typedef {import("./change.js").View} View */
/** @typedef {import("./series.js").History} History */

/** @type {[string, string, (value: number | null) => string, string][]} */
const TILES = [
  ["entropy", "Entropy", (value) => decimal(value), "nats"],
  ["drift", "Drift", (value) => decimal(value), "from training"],
  ["agreement", "Agreement", percent, "with the source"],
  ["source_gap", "Source gap", gap, "on the probe set"],
  ["forgetting", "Forgetting", gap, "by learning"],
  ["estimated_accuracy", "Accuracy", percent, "estimated"],
  ["selected_ratio", "Selected", percent, "of images"],
  ["milliseconds", "Latency", milliseconds, "per request"],
];

/** @type {[string, (view: View, history: History) => string][]} */
const FACTS = [
  ["Model", (view) => view.model],
  ["Adapter", (view) => view.adapter],
  ["Mode", (view) => view.mode],
  ["Generation", (view) => count(view.generation)],
  ["Durability", (view) => view.durability],
  ["On disk", onDisk],
  ["Learning steps", (view) => count(view.steps)],
  ["State", (view) => bytes(view.state_bytes)],
  ["Adaptation batch", batch],
  ["Created", (view) => clock(view.created)],
  ["Last used", (view) => clock(view.last_used, true)],
  ["Last probe", lastProbe],
  ["Guard", (view) => settings(view.guard).replaceAll("_", " ")],
  ["Options", (view) => settings(view.options)],
];

/** @returns {{element: HTMLElement, show: (history: History) => void}} */
export function tiles() {
  const values = TILES.map(() => h("span", {}));
  const under = TILES.map(() => h("small", {}));
  const places = TILES.map(([, title], i) =>
    h("div", { class: "tile" }, h("dt", {}, title), h("dd", {}, values[i], under[i])),
  );
  const element = h("dl", { class: "tiles" }, places);
  return {
    element,
    show(history) {
      TILES.forEach(([column, , format, words], i) => {
        if (column === "selected_ratio") places[i].hidden = history.latest(column) === null;
        // A probe may be newer than the newest request, which the series are told by.
        const probed = history.probe?.[/** @type {"source_gap" | "forgetting"} */ (column)];
        const value = probed ?? history.latest(column);
        setText(values[i], format(value));
        const also = column === "estimated_accuracy" ? truly(history) : "";
        setText(under[i], value === null ? "not known yet" : words + also);
      });
    },
  };
}

/** What labels said, beside what was estimated without them. @param {History} history */
function truly(history) {
  const accuracy = history.latest("true_accuracy");
  return accuracy === null ? "" : `; ${percent(accuracy)} by labels`;
}

/** @returns {{element: HTMLElement, show: (view: View, history: History) => void}} */
export function facts() {
  const values = FACTS.map(() => h("dd", {}));
  const element = h(
    "dl",
    { class: "facts" },
    FACTS.map(([title], i) => h("div", {}, h("dt", {}, title), values[i])),
  );
  return {
    element,
    show: (view, history) => FACTS.forEach(([, words], i) => setText(values[i], words(view, history))),
  };
}

/** @param {View} view */
function onDisk({ generation, durable_generation: durable }) {
  if (durable === 0) return "nothing yet";
  return durable < generation ? `generation ${count(durable)}, ${count(generation - durable)} behind` : "all of it";
}

/** @param {View} view */
function batch({ adapt_batch_size: size, waiting_images: waiting }) {
  return size > 1 ? `${count(size)} images, ${count(waiting)} waiting` : "each request";
}

/** @param {View} _view @param {History} history */
function lastProbe(_view, { probe }) {
  if (!probe) return "none yet";
  const passed = duration(Math.max(0, Date.now() / 1000 - probe.time));
  return `${percent(probe.accuracy)} right at generation ${count(probe.generation)}, ${passed} ago`;
}

/** Say settings as plain text. @param {Record<string, any> | null | undefined} values */
function settings(values) {
  const entries = Object.entries(values ?? {}).filter(([, value]) => value !== null && value !== undefined);
  return entries.map(([name, value]) => `${name.replaceAll("_", " ")}: ${said(value)}`).join("; ") || "default";
}

/** @param {any} value @returns {string} */
function said(value) {
  if (value === null || typeof value !== "object") return String(value);
  if (Array.isArray(value)) return value.map(said).join(", ");
  return Object.entries(value)
    .map(([name, inner]) => `${name} ${said(inner)}`)
    .join(", ");
}
