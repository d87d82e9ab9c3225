/** The charts of a stream: one time axis, one cursor, one legend of marks, and the same figures as a table. */

import { Chart } from "./chart.js";
import { button, fill, h, setText } from "./dom.js";
import { figuresTable } from "./figurestable.js";
import { clock, count, decimal, duration, gap, milliseconds, percent, points } from "./format.js";
import { chartsOfOthers } from "./signals.js";

const ROWS_IN_TABLE = 60;

/** @type {import("./chart.js").ChartSpec[]} */
const SPECS = [
  {
    title: "Entropy",
    hint: "Uncertainty of the answers, in nats. Low means sure, not necessarily right.",
    lines: [{ column: "entropy", label: "Entropy" }],
    format: (value) => decimal(value),
    axis: (value) => `${decimal(value)} nats`,
    empty: "Known after the first request.",
    fromZero: true,
  },
  {
    title: "Drift",
    hint: "Distance of the norm statistics from those of training, in variances of training.",
    lines: [{ column: "drift", label: "Drift" }],
    format: (value) => decimal(value),
    empty: "This model has no statistics to compare.",
    fromZero: true,
  },
  {
    title: "Agreement with the source",
    hint: "Share of answers equal to those of the model as trained.",
    lines: [{ column: "agreement", label: "Agreement" }],
    format: percent,
    empty: "Compared on one request in twenty; none so far.",
    ceiling: 1,
  },
  {
    title: "Source gap and forgetting",
    hint: "Accuracy lost on the probe set: against the source model, and by learning alone.",
    lines: [
      { column: "source_gap", label: "Source gap" },
      { column: "forgetting", label: "Forgetting" },
    ],
    format: gap,
    axis: points,
    empty: "Drawn from the first request after a probe.",
  },
  {
    title: "Accuracy",
    hint: "Estimated without labels, and true if labels were sent as feedback. Press a name to show or hide its line.",
    lines: [
      { column: "estimated_accuracy", label: "Estimated" },
      { column: "source_estimated_accuracy", label: "Source, estimated" },
      { column: "true_accuracy", label: "True" },
      { column: "confidence_accuracy", label: "By confidence", quiet: true },
      { column: "confidence", label: "Mean confidence", quiet: true },
      { column: "source_confidence_accuracy", label: "Source, by confidence", quiet: true },
    ],
    format: percent,
    empty: "No estimate yet, and no labels as feedback.",
    ceiling: 1,
  },
  {
    optional: true,
    title: "Selected share",
    hint: "Share of the images that the learner learned from.",
    lines: [{ column: "selected_ratio", label: "Selected" }],
    format: percent,
    empty: "This adapter selects no images.",
    fromZero: true,
    ceiling: 1,
  },
  {
    title: "Latency",
    hint: "Time of a request in the worker.",
    lines: [{ column: "milliseconds", label: "Latency" }],
    format: milliseconds,
    empty: "Known after the first request.",
    fromZero: true,
  },
  {
    title: "Generation",
    hint: "Commits so far. It never decreases, and stays level while the stream does not learn.",
    lines: [{ column: "generation", label: "Generation" }],
    format: (value) => count(value === null || value === undefined ? value : Math.round(value)),
    empty: "Known after the first request.",
  },
];

/** @param {import("./chart.js").ChartSpec} spec */
const columnsOf = ({ lines }) => lines.map(({ column }) => column);


/** @type {[string, string, number | null][]} */
const RANGES = [
  ["15m", "15 min", 900],
  ["1h", "1 h", 3600],
  ["6h", "6 h", 21600],
  ["1d", "1 day", 86400],
  ["14d", "14 days", 1209600],
  ["all", "All", null],
];

export class Charts {
  /** @param {(seconds: number | null) => void} load called with the span to be loaded, null for all */
  constructor(load) {
    this.load = load;
    /** @type {import("./series.js").History | null} */
    this.history = null;
    /** @type {string} one of RANGES, or "zoom" while the operator looks at a part */
    this.range = "all";
    /** @type {import("./chart.js").ChartSpec[]} */
    this.specs = [];
    /** @type {Chart[]} */
    this.charts = [];
    this.rangeButtons = RANGES.map(([key, words]) => button(words, () => this.#choose(key), { class: "chip" }));
    this.table = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Figures as a table" });
    this.details = /** @type {HTMLDetailsElement} */ (
      h("details", { class: "card" }, h("summary", {}, `The newest ${ROWS_IN_TABLE} figures as a table`), this.table)
    );
    this.details.addEventListener("toggle", () => this.details.open && this.#fillTable());
    this.element = h(
      "section",
      { "aria-labelledby": "charts-title" },
      h(
        "div",
        { class: "section-head" },
        h("h2", { id: "charts-title" }, "Over time"),
        h("div", { class: "chips", role: "group", "aria-label": "Time shown" }, this.rangeButtons),
      ),
      h(
        "p",
        { class: "mark-legend" },
        h("span", { class: "mark", "data-mark": "drift" }, "Drift event"),
        h("span", { class: "mark", "data-mark": "guard" }, "Guard action"),
        h("span", { class: "hint" }, "Drag across a chart to look closer; double-click to see all."),
      ),
      (this.grid = h("div", { class: "charts" })),
      this.details,
    );
    this.#add(SPECS);
    this.addOthers = () => this.#add(chartsOfOthers(new Set(this.specs.flatMap(columnsOf))));
    this.addOthers();
    this.#showRange();
    this.recolour = () => {
      if (this.range === "zoom") this.#choose("all");
      this.charts.forEach((chart) => chart.recolour());
      if (this.history) this.show(this.history);
    };
    document.addEventListener("theme", this.recolour);
    document.addEventListener("signals", this.addOthers);
  }

  /** @param {import("./chart.js").ChartSpec[]} specs */
  #add(specs) {
    this.specs.push(...specs);
    for (const spec of specs) {
      const chart = new Chart(
        spec,
        () => this.#marks(),
        (mode) => this.#zoomed(mode),
      );
      this.charts.push(chart);
      this.grid.append(chart.element);
    }
    if (this.history) this.show(this.history);
  }

  /** @param {import("./series.js").History} history */
  show(history) {
    this.history = history;
    this.#showSpan(history);
    // What the operator looks at closely must not move away below the cursor.
    if (this.range === "zoom") return;
    const seconds = RANGES.find(([key]) => key === this.range)?.[2] ?? null;
    const last = history.column("time").at(-1);
    const range = seconds !== null && last ? /** @type {[number, number]} */ ([last - seconds, last]) : null;
    this.charts.forEach((chart) => chart.show(history, range));
  }

  destroy() {
    document.removeEventListener("theme", this.recolour);
    document.removeEventListener("signals", this.addOthers);
    this.charts.forEach((chart) => chart.destroy());
  }

  /** @param {string} key */
  #choose(key) {
    this.range = key;
    this.#showRange();
    if (this.history) this.show(this.history);
    this.load(RANGES.find(([one]) => one === key)?.[2] ?? null);
  }

  /** Say how far back the figures go, and offer no range that would show nothing more. @param {import("./series.js").History} history */
  #showSpan({ oldest, columns }) {
    const last = columns.get("time")?.at(-1) ?? null;
    const span = oldest === null || last === null ? 0 : Math.max(0, last - oldest);
    RANGES.forEach(([, words, seconds], i) => {
      const smaller = RANGES[i - 1]?.[2] ?? 0;
      const button = this.rangeButtons[i];
      button.disabled = seconds !== null && i > 0 && span <= smaller;
      button.title = button.disabled ? `Nothing is older than ${duration(span)}` : "";
      setText(button, seconds === null ? `All (${duration(span)})` : words);
    });
  }

  /** @param {"zoom" | "all"} mode */
  #zoomed(mode) {
    this.range = mode;
    this.#showRange();
  }

  #showRange() {
    RANGES.forEach(([key], i) => this.rangeButtons[i].setAttribute("aria-pressed", String(key === this.range)));
  }

  #marks() {
    const marks = [];
    for (const { time, kind } of this.history?.events.values() ?? []) {
      if (kind === "drift" || kind === "guard") marks.push(/** @type {import("./marks.js").Mark} */ ({ time, kind }));
    }
    return marks;
  }

  #fillTable() {
    if (!this.history) return fill(this.table);
    const { history } = this;
    const lines = this.specs.flatMap(({ lines: some, format }) => some.map((line) => ({ ...line, format }))).filter(
      ({ column }) => history.columns.has(column),
    );
    const times = history.column("time");
    const rows = [];
    for (let i = times.length - 1; i >= Math.max(0, times.length - ROWS_IN_TABLE); i -= 1) {
      const values = lines.map(({ column, format }) => format(history.column(column)[i]));
      rows.push([clock(/** @type {number} */ (times[i]), true), ...values]);
    }
    figuresTable(this.table, ["Time", ...lines.map(({ label }) => label)], rows);
  }
}
