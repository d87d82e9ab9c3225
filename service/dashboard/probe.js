/** The last probe: accuracy on the probe set, and the newest images' features against the source's. */

import { h, setText } from "./dom.js";
import { showFigures } from "./figurelist.js";
import { agoElement, count, decimal, gap as lost, percent, plural, setAgo } from "./format.js";

const LEVEL = 0.005; // the p-value at and below which the server tells of unlike features

/** @typedef {import("./series.js").Probe} Probe */
/** @typedef {import("./series.js").Compared} Compared */

/** @returns {{element: HTMLElement, show: (probe: Probe | null) => void}} */
export function probeReport() {
  const answers = h("p", {});
  const features = h("p", { class: "report-words" });
  const figures = h("dl", { class: "figure-list" });
  const when = agoElement(null);
  const element = h(
    "section",
    { class: "card", "aria-labelledby": "probe-title", hidden: true },
    h("h2", { id: "probe-title" }, "Last probe"),
    answers,
    figures,
    features,
    h("p", { class: "hint" }, "Taken ", when, "."),
  );
  let shown = "";
  return {
    element,
    show(probe) {
      element.hidden = probe === null;
      const state = JSON.stringify(probe);
      if (probe === null || state === shown) return;
      shown = state;
      setText(answers, answersInWords(probe));
      setText(features, featuresInWords(probe.compared ?? null));
      showFigures(figures, figuresOf(probe));
      setAgo(when, probe.time);
    },
  };
}

/** @param {Probe} probe */
export function answersInWords({ accuracy, source_gap: gap, generation }) {
  const lost = Math.round(1000 * gap) / 10;
  const against =
    lost === 0
      ? "as often as the source model"
      : `${plural(Math.abs(lost), "point")} ${lost > 0 ? "less" : "more"} than the source model`;
  return `At generation ${count(generation)} the stream was right on ${percent(accuracy)} of the probe set, ${against}.`;
}

/** @param {Compared | null} compared */
export function featuresInWords(compared) {
  if (compared === null)
    return "Features are compared after enough images, if the model has the source's features.";
  const { mmd, p_value: p, unlike } = compared;
  const figures = `MMD ${decimal(mmd, 3)}, p ${decimal(p, 3)}`;
  if (p <= LEVEL) {
    return `The newest images' features differ from the source's (${figures}; ${percent(unlike)} of the dimensions).`;
  }
  return `The newest images' features cannot be told from the source's (${figures}; ${percent(unlike)} of the dimensions differ).`;
}

/** @param {Probe} probe @returns {import("./figurelist.js").Figure[]} */
function figuresOf({ accuracy, source_gap: gap, forgetting, compared }) {
  /** @type {import("./figurelist.js").Figure[]} */
  const known = [
    ["Accuracy", percent(accuracy), "of the probe set"],
    ["Source gap", lost(gap), "against the source"],
    ["Forgetting", lost(forgetting), "by learning"],
  ];
  if (!compared) return known;
  return [
    ...known,
    ["MMD", decimal(compared.mmd), "of the features"],
    ["p-value", decimal(compared.p_value), "by permutations"],
    ["Unlike", percent(compared.unlike), "of the dimensions"],
  ];
}
