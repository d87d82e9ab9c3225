/** Each class's share of the answers against the prior, as bars inside a table. */

import { button, fill, h } from "./dom.js";
import { percent, points, plural } from "./format.js";

const SHOWN = 12;

export class ClassShares {
  constructor() {
    this.all = false;
    this.shown = "";
    /** @type {import("./series.js").Classes | null} */
    this.classes = null;
    this.summary = h("p", {});
    this.body = h("tbody", {});
    this.more = button(
      "",
      () => {
        this.all = !this.all;
        this.show(this.classes);
      },
      { class: "button small" },
    );
    const titles = ["Class", "Share", "", "Against the prior"].map((title) =>
      h("th", { scope: "col" }, title || h("span", { class: "sr-only" }, "Picture")),
    );
    this.element = h(
      "section",
      { class: "card", "aria-labelledby": "classes-title" },
      h("h2", { id: "classes-title" }, "Classes answered"),
      this.summary,
      h("table", { class: "classes" }, h("thead", {}, h("tr", {}, titles)), this.body),
      this.more,
    );
  }

  /** @param {import("./series.js").Classes | null} classes */
  show(classes) {
    this.classes = classes;
    this.element.hidden = !classes || classes.shares.length === 0;
    if (!classes || this.element.hidden) return;
    const state = JSON.stringify([classes, this.all]);
    if (state === this.shown) return;
    this.shown = state;
    const rows = classes.shares.map((share, i) => ({
      name: classes.names[i] ?? `class ${i}`,
      share,
      prior: classes.prior[i] ?? null,
    }));
    const order = [...rows].sort((a, b) => off(b) - off(a));
    const shown = this.all || rows.length <= SHOWN ? rows : order.slice(0, SHOWN);
    const most = Math.max(...shown.map(({ share, prior }) => Math.max(share, prior ?? 0)), 0.01);
    const [first] = order;
    fill(
      this.summary,
      "Furthest from the prior: ",
      h("strong", {}, first.name),
      ` with ${percent(first.share)}${first.prior === null ? "" : ` instead of ${percent(first.prior)}`}. The tick marks the prior.`,
    );
    fill(
      this.body,
      shown.map((row) => classRow(row, most)),
    );
    this.more.hidden = rows.length <= SHOWN;
    this.more.textContent = this.all
      ? `Only the ${SHOWN} furthest from the prior`
      : `All ${plural(rows.length, "class", "classes")}`;
  }
}

/** @typedef {{name: string, share: number, prior: number | null}} Share */

/** @param {Share} row */
const off = ({ share, prior }) => Math.abs(share - (prior ?? share));

/** @param {Share} row @param {number} most */
function classRow({ name, share, prior }, most) {
  const bar = h("span", { class: "bar" });
  const tick = h("span", { class: "tick", hidden: prior === null });
  bar.style.width = `${(100 * share) / most}%`;
  tick.style.left = `${(100 * (prior ?? 0)) / most}%`;
  return h(
    "tr",
    {},
    h("th", { scope: "row", title: name }, name),
    h("td", {}, percent(share)),
    h("td", { class: "bars", "aria-hidden": "true" }, h("span", { class: "bar-track" }, bar, tick)),
    h("td", {}, prior === null ? "–" : points(share - prior)),
  );
}
