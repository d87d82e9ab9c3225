/** The overview: what is in trouble, totals, and the table of all streams. */

import { say } from "./announce.js";
import { attention } from "./attention.js";
import { BADGES } from "./badges.js";
import { COLUMNS } from "./columns.js";
import { button, fill, h, setText } from "./dom.js";
import { count, plural } from "./format.js";
import { arranged, countBadges } from "./order.js";
import { load, onChange, store } from "./store.js";
import { Table } from "./table.js";
import { teach } from "./teaching.js";
import { totals } from "./totals.js";

/** What was asked last, so that coming back from a stream finds the table as it was. */
const asked = { text: "", badge: "", sort: "badge", descending: false };

/** @param {HTMLElement} main @returns {() => void} */
export function overviewPage(main) {
  const sums = totals();
  const trouble = h("section", { class: "attention", "aria-label": "Streams that need a look", hidden: true });
  const table = new Table(COLUMNS, "Streams. Headers sort; arrow keys go from stream to stream.", sortBy);
  const tools = toolbar(() => arrange(true), sortBy);
  const nothing = h("div", {});
  const shown = h("p", { class: "shown", role: "status" });
  const some = h("section", { "aria-label": "All streams" }, tools.element, shown, table.element);
  fill(main, h("h1", { tabindex: -1 }, "Streams"), nothing, sums.element, trouble, some);

  let membership = -1;

  /** Sort and filter anew; not while the operator is at a row, unless streams came or went, or was asked for. */
  function arrange(now = false) {
    if (!now && table.held && membership === store.membership) {
      table.show(table.rows.map((row) => store.rows.get(row.id) ?? row));
      return;
    }
    membership = store.membership;
    const rows = arranged(store.rows.values(), asked);
    table.showSort(asked.sort, asked.descending);
    table.show(rows);
    const all = rows.length === store.rows.size;
    setText(
      shown,
      rows.length
        ? all
          ? ""
          : `${count(rows.length)} of ${plural(store.rows.size, "stream")}`
        : "No stream matches the filter.",
    );
    table.element.hidden = rows.length === 0;
  }

  /** @param {string} key @param {boolean} [descending] */
  function sortBy(key, descending) {
    const column = COLUMNS.find((one) => one.key === key);
    asked.descending = descending ?? (asked.sort === key ? !asked.descending : Boolean(column?.numeric));
    asked.sort = key;
    tools.showSort();
    arrange(true);
    say(`Sorted by ${column?.title}, ${asked.descending ? "descending" : "ascending"}`);
  }

  function update() {
    const waiting = !store.loaded;
    sums.element.hidden = some.hidden = waiting || store.rows.size === 0;
    if (waiting || store.rows.size === 0) {
      trouble.hidden = true;
      showNothing(nothing);
      return;
    }
    nothing.replaceChildren();
    nothing.dataset.shown = "";
    const counts = countBadges(store.rows.values());
    sums.show(counts);
    attention(trouble, store.rows.values(), counts);
    tools.showCounts(counts);
    arrange();
  }

  const rearrange = () => setTimeout(() => !table.held && arrange(), 200);
  table.body.addEventListener("mouseleave", rearrange);
  table.body.addEventListener("focusout", rearrange);
  tools.showSort();
  update();
  const stop = onChange(update);
  return () => {
    stop();
    sums.stop();
    table.destroy();
  };
}

/** @param {HTMLElement} element */
function showNothing(element) {
  const state = store.loaded ? "empty" : store.problem ? `problem ${store.problem}` : "loading";
  if (element.dataset.shown === state) return;
  element.dataset.shown = state;
  if (store.loaded) fill(element, teach(store.models[0]?.name ?? "MODEL"));
  else if (store.problem) {
    const words = h("p", { role: "alert" }, store.problem);
    fill(
      element,
      h("div", { class: "card" }, h("h2", {}, "The streams could not be loaded"), words, button("Try again", load)),
    );
  } else fill(element, h("p", { class: "loading", role: "status" }, "Loading the streams…"));
}

/**
 * The filter box, a button for each badge, and for narrow screens the order.
 *
 * @param {() => void} changed
 * @param {(key: string, descending: boolean) => void} sortBy
 */
function toolbar(changed, sortBy) {
  const search = /** @type {HTMLInputElement} */ (
    h("input", {
      type: "search",
      id: "filter",
      placeholder: "Filter by name, model, adapter…",
      autocomplete: "off",
      spellcheck: "false",
    })
  );
  search.value = asked.text;
  search.addEventListener("input", () => {
    asked.text = search.value;
    changed();
  });
  const chips = ["", ...Object.keys(BADGES)].map((name) => {
    const chip = button(
      "",
      () => {
        asked.badge = asked.badge === name ? "" : name;
        press();
        changed();
      },
      { class: "chip", "data-badge": name },
    );
    return { name, chip };
  });
  const press = () =>
    chips.forEach(({ name, chip }) => chip.setAttribute("aria-pressed", String(asked.badge === name)));
  const options = COLUMNS.map(({ key, title }) => h("option", { value: key }, title));
  const order = /** @type {HTMLSelectElement} */ (h("select", { id: "order" }, options));
  const direction = button("", () => sortBy(asked.sort, !asked.descending), { class: "button small" });
  order.addEventListener("change", () =>
    sortBy(order.value, Boolean(COLUMNS.find(({ key }) => key === order.value)?.numeric)),
  );
  press();
  return {
    element: h(
      "div",
      { class: "toolbar" },
      h("div", { class: "search" }, h("label", { for: "filter", class: "sr-only" }, "Filter streams"), search),
      h(
        "div",
        { class: "chips", role: "group", "aria-label": "Filter by state" },
        chips.map(({ chip }) => chip),
      ),
      h("div", { class: "order" }, h("label", { for: "order" }, "Sort by"), order, direction),
    ),
    /** @param {Map<string, number>} counts */
    showCounts(counts) {
      for (const { name, chip } of chips) {
        const number = name ? (counts.get(name) ?? 0) : store.rows.size;
        setText(
          chip,
          `${name ? BADGES[/** @type {import("./badges.js").Badge} */ (name)].word : "All"} ${count(number)}`,
        );
        chip.hidden = number === 0 && asked.badge !== name;
      }
    },
    showSort() {
      order.value = asked.sort;
      setText(direction, asked.descending ? "↓ descending" : "↑ ascending");
    },
  };
}
