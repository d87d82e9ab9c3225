/** A table of any number of rows, of which only those in view are in the document. */

import { button, fill, h } from "./dom.js";
import { oncePerFrame } from "./frames.js";

/** @typedef {import("./store.js").Row} Row */
/** @typedef {import("./columns.js").Column} Column */
/** @typedef {{element: HTMLElement, cells: HTMLElement[], row: Row | null, index: number}} Drawn */

const BEYOND = 8; // rows drawn above and below the view, so that Tab always finds a next one

export class Table {
  /**
   * @param {Column[]} columns
   * @param {string} caption
   * @param {(key: string) => void} onSort
   */
  constructor(columns, caption, onSort) {
    this.columns = columns;
    /** @type {Row[]} */
    this.rows = [];
    /** @type {Map<string, Drawn>} */
    this.drawn = new Map();
    this.above = spacer();
    this.below = spacer();
    this.body = h("tbody", { role: "rowgroup" }, this.above, this.below);
    this.headers = columns.map((column) => header(column, onSort));
    this.table = h(
      "table",
      { class: "streams", role: "table" },
      h("caption", { class: "sr-only" }, caption),
      h(
        "colgroup",
        {},
        columns.map(({ key }) => h("col", { class: `col-${key}` })),
      ),
      h("thead", { role: "rowgroup" }, h("tr", { role: "row", "aria-rowindex": 1 }, this.headers)),
      this.body,
    );
    this.element = h("div", { class: "streams-frame", tabindex: -1 }, this.table);
    this.draw = oncePerFrame(() => this.#draw());
    this.redraw = () => {
      this.drawn.forEach((drawn) => (drawn.row = null));
      this.draw();
    };
    this.body.addEventListener("keydown", (event) => this.#onKey(event));
    addEventListener("scroll", this.draw, { passive: true });
    addEventListener("resize", this.redraw);
    document.addEventListener("theme", this.redraw);
  }

  /** Put other rows, or the same in another order, in place. @param {Row[]} rows */
  show(rows) {
    this.rows = rows;
    this.table.setAttribute("aria-rowcount", String(rows.length + 1));
    this.draw();
  }

  /** @param {string} key @param {boolean} descending */
  showSort(key, descending) {
    this.columns.forEach((column, i) => {
      const sorted = column.key === key ? (descending ? "descending" : "ascending") : null;
      if (sorted) this.headers[i].setAttribute("aria-sort", sorted);
      else this.headers[i].removeAttribute("aria-sort");
    });
  }

  /** Whether the operator is at a row, so that rows must not move away. */
  get held() {
    return this.body.matches(":hover") || this.body.contains(document.activeElement);
  }

  destroy() {
    removeEventListener("scroll", this.draw);
    removeEventListener("resize", this.redraw);
    document.removeEventListener("theme", this.redraw);
  }

  #draw() {
    if (!this.element.isConnected) return;
    const height = this.#rowHeight();
    const top = this.above.getBoundingClientRect().top;
    const first = clamp(Math.floor(-top / height) - BEYOND, 0, this.rows.length);
    const last = clamp(Math.ceil((innerHeight - top) / height) + BEYOND, first, this.rows.length);
    const wanted = this.rows.slice(first, last);
    this.#remove(new Set(wanted.map((row) => row.id)));
    this.above.style.height = `${first * height}px`;
    this.below.style.height = `${(this.rows.length - last) * height}px`;
    /** @type {Element} */
    let place = /** @type {Element} */ (this.above.nextElementSibling);
    wanted.forEach((row, i) => {
      const drawn = this.#drawnFor(row.id);
      if (drawn.element === place) place = /** @type {Element} */ (place.nextElementSibling);
      else this.body.insertBefore(drawn.element, place);
      this.#put(drawn, row, first + i);
    });
  }

  /** @param {Set<string>} kept */
  #remove(kept) {
    for (const [id, { element }] of this.drawn) {
      if (kept.has(id)) continue;
      // A focused row that scrolls away leaves the focus at the table, not at the top of the page.
      if (element.contains(document.activeElement)) this.element.focus({ preventScroll: true });
      element.remove();
      this.drawn.delete(id);
    }
  }

  /** @param {string} id @returns {Drawn} */
  #drawnFor(id) {
    let drawn = this.drawn.get(id);
    if (!drawn) {
      const cells = this.columns.map((column) =>
        h("td", {
          role: "cell",
          class: `cell-${column.key}${column.numeric ? " numeric" : ""}`,
          "data-title": column.title,
        }),
      );
      drawn = { element: h("tr", { role: "row" }, cells), cells, row: null, index: -1 };
      this.drawn.set(id, drawn);
    }
    return drawn;
  }

  /** @param {Drawn} drawn @param {Row} row @param {number} index */
  #put(drawn, row, index) {
    if (drawn.index !== index) {
      drawn.index = index;
      drawn.element.setAttribute("aria-rowindex", String(index + 2));
    }
    if (drawn.row === row) return;
    drawn.row = row;
    drawn.element.dataset.badge = row.badge;
    this.columns.forEach((column, i) => column.show(drawn.cells[i], row));
  }

  /** Go from row to row by the arrow keys, also to rows that are not drawn yet. @param {KeyboardEvent} event */
  #onKey(event) {
    const element = /** @type {HTMLElement} */ (event.target).closest("tr");
    const from = [...this.drawn.values()].find((drawn) => drawn.element === element)?.index;
    if (from === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor(innerHeight / this.#rowHeight()) - 2);
    const to = {
      ArrowDown: from + 1,
      ArrowUp: from - 1,
      PageDown: from + page,
      PageUp: from - page,
      Home: 0,
      End: Infinity,
    };
    const wanted = to[/** @type {keyof typeof to} */ (event.key)];
    if (wanted === undefined) return;
    event.preventDefault();
    this.#focus(clamp(wanted, 0, this.rows.length - 1));
  }

  /** @param {number} index */
  #focus(index) {
    const height = this.#rowHeight();
    const top = this.above.getBoundingClientRect().top + index * height;
    if (top < height * 2) scrollBy({ top: top - height * 2, behavior: "instant" });
    else if (top > innerHeight - height * 2) scrollBy({ top: top - innerHeight + height * 2, behavior: "instant" });
    this.#draw();
    this.drawn.get(this.rows[index].id)?.element.querySelector("a")?.focus({ preventScroll: true });
  }

  /** @returns {number} set by the style sheet: rows are lower than the cards of narrow screens */
  #rowHeight() {
    return parseFloat(getComputedStyle(this.table).getPropertyValue("--row-height")) || 52;
  }
}

/** @param {Column} column @param {(key: string) => void} onSort */
function header(column, onSort) {
  const sort = button("", () => onSort(column.key), { class: "sort", title: column.hint });
  fill(sort, h("span", {}, column.title), h("span", { class: "arrow", "aria-hidden": "true" }));
  const numeric = column.numeric ? " numeric" : "";
  return h("th", { scope: "col", role: "columnheader", class: `cell-${column.key}${numeric}` }, sort);
}

function spacer() {
  return h("tr", { class: "spacer", "aria-hidden": "true" }, h("td", {}));
}

/** @param {number} value @param {number} low @param {number} high */
const clamp = (value, low, high) => Math.max(low, Math.min(high, value));
