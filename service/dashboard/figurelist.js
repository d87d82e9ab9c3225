/** A few figures under their names, side by side. */

import { fill, h } from "./dom.js";

/** @typedef {[title: string, value: string, under?: string]} Figure */

/** @param {HTMLElement} list a dl of class figure-list @param {Figure[]} figures */
export function showFigures(list, figures) {
  fill(
    list,
    figures.map(([title, value, under]) =>
      h("div", {}, h("dt", {}, title), h("dd", {}, value, under ? h("small", {}, under) : null)),
    ),
  );
}
