/** The report of shadow mode: how the adapted model's answers would have differed from the source model's. */

import { fill, h, setText } from "./dom.js";
import { showFigures } from "./figurelist.js";
import { count, decimal, known, percent, plural } from "./format.js";

/**
 * @typedef {object} Shadow
 * @property {number} images
 * @property {number} changed share of the images that the adapted model answers otherwise
 * @property {number} entropy
 * @property {number} source_entropy
 * @property {number | null} accuracy
 * @property {number | null} source_accuracy
 * @property {{source: string, adapted: string, images: number}[]} moves
 */

/** @returns {{element: HTMLElement, show: (shadow: Shadow | null | undefined) => void}} */
export function shadowReport() {
  const words = h("p", { class: "report-words" });
  const figures = h("dl", { class: "figure-list" });
  const body = h("tbody", {});
  const titles = ["Source answer", "Adapted answer", "Images"];
  const heads = titles.map((title) => h("th", { scope: "col" }, title));
  const table = h(
    "table",
    { class: "figures-table moves" },
    h("caption", {}, "Most common changes"),
    h("thead", {}, h("tr", {}, heads)),
    body,
  );
  const element = h(
    "section",
    { class: "card shadow-report", "aria-labelledby": "shadow-title", hidden: true },
    h("h2", { id: "shadow-title" }, "Shadow mode"),
    words,
    h("div", { class: "report" }, figures, table),
  );
  let shown = "";
  return {
    element,
    show(shadow) {
      element.hidden = !shadow;
      const state = JSON.stringify(shadow);
      if (!shadow || state === shown) return;
      shown = state;
      setText(words, shadowInWords(shadow));
      showFigures(figures, figuresOf(shadow));
      table.hidden = shadow.moves.length === 0;
      fill(body, shadow.moves.map(move));
    },
  };
}

/** @param {Shadow} shadow */
export function shadowInWords({ images, changed, entropy, source_entropy: before, accuracy, source_accuracy: source }) {
  const other = Math.round(images * changed);
  const changes = other
    ? `Adapting would have changed ${plural(other, "answer")} of ${count(images)} (${percent(changed)}).`
    : `Adapting would have changed no answer of ${count(images)}.`;
  const surer = Math.abs(entropy - before) < 0.0005 ? "as sure as" : entropy < before ? "surer than" : "less sure than";
  const sureness = `The adapted answers are ${surer} the source model's, on average.`;
  return `${changes} ${sureness} ${labelsInWords(accuracy, source)}`;
}

/** @param {number | null} accuracy @param {number | null} source */
function labelsInWords(accuracy, source) {
  if (!known(accuracy)) return "There are no labels yet that show which is better.";
  const right = `By the labels so far, the adapted model is right on ${percent(accuracy)}`;
  if (!known(source)) return `${right}.`;
  const better =
    accuracy > source ? "adapting is better" : accuracy < source ? "adapting is worse" : "neither is better";
  return `${right}, the source model on ${percent(source)}: ${better} so far.`;
}

/** @param {Shadow} shadow @returns {import("./figurelist.js").Figure[]} */
function figuresOf({ images, changed, entropy, source_entropy: before, accuracy, source_accuracy: source }) {
  const labelled = known(accuracy) || known(source);
  return [
    ["Images", count(images)],
    ["Changed", percent(changed), "of the answers"],
    ["Entropy, adapted", decimal(entropy), "nats"],
    ["Entropy, source", decimal(before), "nats"],
    ["Accuracy, adapted", percent(accuracy), labelled ? "by labels" : "no labels yet"],
    ["Accuracy, source", percent(source), labelled ? "by labels" : "no labels yet"],
  ];
}

/** @param {Shadow["moves"][number]} move */
function move({ source, adapted, images }) {
  return h("tr", {}, h("th", { scope: "row" }, source), h("td", {}, adapted), h("td", {}, count(images)));
}
