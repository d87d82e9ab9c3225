/** The entropies of the newest answers, as bars and in a sentence. */

import { fill, h, setText } from "./dom.js";
import { figuresTable } from "./figurestable.js";
import { decimal, percent } from "./format.js";

/** @returns {{element: HTMLElement, show: (shares: number[], classes: number) => void}} */
export function entropyBars() {
  const words = h("p", {});
  const bars = h("div", { class: "columns-chart", "aria-hidden": "true" });
  const most = h("span", {});
  const middle = h("span", {});
  const table = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Entropies as a table" });
  const element = h(
    "section",
    { class: "card", "aria-labelledby": "entropies-title", hidden: true },
    h("h2", { id: "entropies-title" }, "Entropy of the answers"),
    words,
    bars,
    h("p", { class: "columns-axis hint", "aria-hidden": "true" }, h("span", {}, "0, sure"), middle, most),
    h("details", {}, h("summary", {}, "The bars as a table"), table),
  );
  let shown = "";
  return {
    element,
    show(shares, classes) {
      element.hidden = !shares.some((share) => share > 0);
      const state = JSON.stringify([shares, classes]);
      if (element.hidden || state === shown) return;
      shown = state;
      const top = Math.log(Math.max(classes, 2));
      const edge = (/** @type {number} */ bin) => decimal((bin * top) / shares.length, 2);
      setText(words, entropiesInWords(shares, top));
      setText(middle, `${decimal(top / 2, 2)}`);
      setText(most, `${decimal(top, 2)} nats, unsure`);
      fill(bars, columns(shares, edge));
      const rows = shares.map((share, i) => [`${edge(i)} to ${edge(i + 1)}`, percent(share)]);
      figuresTable(table, ["Entropy, nats", "Share of the images"], rows);
    },
  };
}

/** Say where the middle is, and how much is at the two ends. @param {number[]} shares @param {number} top */
export function entropiesInWords(shares, top) {
  const sum = (/** @type {number[]} */ some) => some.reduce((total, share) => total + share, 0);
  const half = shares.findIndex((_, i) => sum(shares.slice(0, i + 1)) >= 0.5 * sum(shares));
  const tenth = Math.max(1, Math.round(shares.length / 10));
  const below = decimal(((half + 1) * top) / shares.length, 2);
  return (
    `Half of the newest images are answered with less than ${below} nats. ${percent(sum(shares.slice(0, tenth)))} are in ` +
    `the surest tenth of the scale, ${percent(sum(shares.slice(-tenth)))} in the least sure.`
  );
}

/** @param {number[]} shares @param {(bin: number) => string} edge */
function columns(shares, edge) {
  const highest = Math.max(...shares);
  return shares.map((share, i) => {
    const bar = h("span", { class: "column" });
    bar.style.height = `${(100 * share) / highest}%`;
    return h("span", { class: "column-track", title: `${edge(i)} to ${edge(i + 1)} nats: ${percent(share)}` }, bar);
  });
}
