/** The list of a stream's snapshots, with buttons to restore, download and delete. */

import { button, h, refill, setText } from "./dom.js";
import { agoElement, bytes, count } from "./format.js";

/**
 * @typedef {object} Snapshot
 * @property {string} id
 * @property {string} stream
 * @property {string} name
 * @property {string} note
 * @property {string} model
 * @property {string} adapter
 * @property {number} generation
 * @property {number} steps
 * @property {number} bytes
 * @property {number} created
 * @property {boolean} contains_inputs
 * @property {boolean} exact
 */

/**
 * @param {{take: () => void, restore: (snapshot: Snapshot) => void, remove: (snapshot: Snapshot) => void}} acts
 * @returns {{element: HTMLElement, show: (snapshots: Snapshot[] | null, problem: string) => void}}
 */
export function snapshotList(acts) {
  const words = h("p", { class: "hint" });
  const body = h("tbody", {});
  const titles = ["Name", "Taken", "Generation", "Steps", "Size", "Adapter", ""];
  const heads = titles.map((title) => h("th", { scope: "col" }, title || h("span", { class: "sr-only" }, "Actions")));
  const table = h("table", { class: "snapshots" }, h("thead", {}, h("tr", {}, heads)), body);
  const element = h(
    "section",
    { class: "card", "aria-labelledby": "snapshots-title" },
    h(
      "div",
      { class: "section-head" },
      h("h2", { id: "snapshots-title" }, "Snapshots"),
      button("Take a snapshot", acts.take),
    ),
    words,
    table,
  );
  let shown = "";
  return {
    element,
    show(snapshots, problem) {
      const state = JSON.stringify([snapshots, problem]);
      if (state === shown) return;
      shown = state;
      table.hidden = !snapshots?.length;
      words.hidden = !table.hidden && !problem;
      setText(
        words,
        problem ||
          (snapshots
            ? "There are none yet. Take one while the stream does well, so that you can restore it later."
            : "Loading…"),
      );
      refill(
        body,
        (snapshots ?? []).map((snapshot) => row(snapshot, acts)),
      );
    },
  };
}

/** @param {Snapshot} snapshot @param {{restore: (snapshot: Snapshot) => void, remove: (snapshot: Snapshot) => void}} acts */
function row(snapshot, { restore, remove }) {
  const { id, name, note, generation, steps, bytes: size, created, adapter, exact, contains_inputs: images } = snapshot;
  const tags = [
    exact ? null : h("span", { class: "tag", title: "It does not replay bit for bit" }, "not exact"),
    images ? h("span", { class: "tag", title: "It holds images that were sent" }, "holds images") : null,
  ];
  const cell = (/** @type {string} */ title, /** @type {any} */ value) => h("td", { "data-title": title }, value);
  return h(
    "tr",
    {},
    h("th", { scope: "row" }, h("strong", {}, name), tags, note ? h("p", { class: "hint" }, note) : null),
    cell("Taken", agoElement(created)),
    cell("Generation", count(generation)),
    cell("Steps", count(steps)),
    cell("Size", bytes(size)),
    cell("Adapter", h("code", {}, adapter)),
    h(
      "td",
      { class: "row-buttons" },
      button("Restore", () => restore(snapshot), { class: "button small", "aria-label": `Restore ${name}` }),
      h(
        "a",
        {
          class: "button small",
          href: `v1/snapshots/${encodeURIComponent(id)}/download`,
          download: "",
          "aria-label": `Download ${name}`,
        },
        "Download",
      ),
      button("Delete", () => remove(snapshot), { class: "button small quiet-danger", "aria-label": `Delete ${name}` }),
    ),
  );
}
