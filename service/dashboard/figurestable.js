/** A plain table of figures: what charts and pictures show, for those who read. */

import { fill, h } from "./dom.js";

/** Fill a table; the first cell of each row names it. @param {HTMLElement} element @param {string[]} titles @param {string[][]} rows */
export function figuresTable(element, titles, rows) {
  fill(
    element,
    h(
      "table",
      { class: "figures-table" },
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          titles.map((title) => h("th", { scope: "col" }, title)),
        ),
      ),
      h(
        "tbody",
        {},
        rows.map((row) =>
          h(
            "tr",
            {},
            row.map((cell, i) => (i ? h("td", {}, cell) : h("th", { scope: "row" }, cell))),
          ),
        ),
      ),
    ),
  );
}
