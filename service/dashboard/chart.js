/** One chart over time: uPlot in this page's colours, with its newest figures and marks. */

import uPlot from "./vendor/uplot/uPlot.esm.js";
import { h } from "./dom.js";
import { clock, known } from "./format.js";
import { marksPlugin } from "./marks.js";
import { colour } from "./palette.js";
import { rangePlugin, within } from "./extremes.js";

const HEIGHT = 168;
const FEW = 30; // figures that are also drawn as dots: one alone has no line
/** Seconds between two times at the axis: whole ones, for labels tell no less. */
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200].concat(
  [1, 2, 5, 10, 30, 90, 365].map((days) => days * 86400),
);
const FONT = '11px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif';

/** @typedef {import("./extremes.js").Extremes} Extremes */

/**
 * @typedef {object} Line
 * @property {string} column
 * @property {string} label
 * @property {boolean} [quiet] drawn once it is asked for in the legend, or where no other line is known
 *
 * @typedef {object} ChartSpec
 * @property {string} title
 * @property {string} hint what the figure means
 * @property {Line[]} lines the first is drawn strong, the second dashed, the third as dots, others thin
 * @property {(value: number | null | undefined) => string} format
 * @property {(value: number | null | undefined) => string} [axis] says a value at the axis, where there is less room
 * @property {string} empty what to do where nothing is known
 * @property {number} [ceiling] a bound of the values
 * @property {boolean} [fromZero]
 * @property {boolean} [optional] hidden where nothing is known
 */

export class Chart {
  /**
   * @param {ChartSpec} spec
   * @param {() => import("./marks.js").Mark[]} marks
   * @param {(mode: "zoom" | "all") => void} onZoom
   */
  constructor(spec, marks, onZoom) {
    this.spec = spec;
    this.marks = marks;
    this.onZoom = onZoom;
    /** @type {any} made when there is something to draw */
    this.plot = null;
    /** @type {Line[]} those that the server tells of */
    this.lines = spec.lines;
    /** @type {any[]} */
    this.data = [];
    /** @type {Extremes} lowest and highest values of the first line, where a point stands for several requests */
    this.extremes = { low: [], high: [] };
    this.place = h("div", { class: "chart-place" });
    this.empty = h("p", { class: "chart-empty", hidden: true }, spec.empty);
    this.summary = h("p", { class: "sr-only" });
    this.element = h(
      "figure",
      { class: "chart card" },
      h("figcaption", {}, h("h3", {}, spec.title), h("p", { class: "hint" }, spec.hint)),
      this.place,
      this.empty,
      this.summary,
    );
    this.sizes = new ResizeObserver(() => this.plot?.setSize({ width: this.place.clientWidth, height: HEIGHT }));
    this.sizes.observe(this.place);
  }

  /**
   * Draw a history.
   *
   * @param {import("./series.js").History} history
   * @param {[number, number] | null} range seconds, or null for all
   */
  show(history, range) {
    if (!this.plot) this.lines = this.spec.lines.filter(({ column }) => history.columns.has(column));
    this.data = [history.column("time"), ...this.lines.map(({ column }) => history.column(column))];
    const first = this.lines[0]?.column;
    this.extremes = { low: history.column(`${first}_min`), high: history.column(`${first}_max`) };
    const values = this.data.slice(1).flat().filter(known);
    this.empty.hidden = values.length > 0;
    this.place.hidden = values.length === 0;
    this.element.hidden = Boolean(this.spec.optional) && values.length === 0;
    if (!values.length) return;
    this.plot ??= this.#make();
    this.plot.batch(() => {
      this.plot.setData(this.data, range === null);
      if (range) this.plot.setScale("x", { min: range[0], max: range[1] });
    });
    this.#restLegend();
    this.summary.textContent = this.#summary();
  }

  /** Draw anew in other colours. */
  recolour() {
    this.plot?.destroy();
    this.plot = null;
  }

  destroy() {
    this.sizes.disconnect();
    this.plot?.destroy();
  }

  /** @returns {any} */
  #make() {
    const { spec, lines } = this;
    const loud = lines.some(({ quiet }, i) => !quiet && this.data[i + 1].some(known));
    const grid = { stroke: colour("grid"), width: 1 };
    const axis = { stroke: colour("muted"), font: FONT, grid, ticks: { ...grid, size: 4 }, gap: 4 };
    const plot = new /** @type {any} */ (uPlot)(
      {
        width: this.place.clientWidth || 300,
        height: HEIGHT,
        padding: [10, 8, 0, 0],
        cursor: { y: false, sync: { key: "stream" }, points: { size: 7 }, drag: { x: true, y: false } },
        scales: {
          x: { time: true },
          y: {
            range: (/** @type {any} */ _plot, /** @type {number} */ low, /** @type {number} */ high) =>
              this.#bounds(low, high),
          },
        },
        axes: [
          { ...axis, space: 64, size: 30, incrs: STEPS, values: timeLabels },
          {
            ...axis,
            size: 58,
            space: 34,
            values: (/** @type {any} */ _plot, /** @type {number[]} */ splits) =>
              splits.map((value) => short((spec.axis ?? spec.format)(value))),
          },
        ],
        series: [
          {
            label: "Time",
            value: (/** @type {any} */ _plot, /** @type {number | null} */ value) =>
              known(value) ? clock(value, true) : "",
          },
          ...lines.map((line, i) => ({
            label: line.label,
            show: !(line.quiet && loud),
            ...STROKES[i](),
            points: {
              show: () => i === 2 || this.data[i + 1].filter(known).length < FEW,
              size: 5,
              fill: STROKES[i]().stroke,
            },
            spanGaps: true,
            value: (
              /** @type {any} */ _plot,
              /** @type {number | null} */ _value,
              /** @type {number} */ series,
              /** @type {number | null} */ index,
            ) => spec.format(knownUpTo(this.data[series], index)),
          })),
        ],
        hooks: {
          setSelect: [(/** @type {any} */ chart) => chart.select.width > 0 && this.onZoom("zoom")],
          setCursor: [(/** @type {any} */ chart) => chart.cursor.idx === null && this.#restLegend()],
        },
        plugins: [marksPlugin(this.marks), rangePlugin(() => this.extremes)],
      },
      this.data,
      this.place,
    );
    plot.over.addEventListener("dblclick", () => this.onZoom("all"));
    // The canvas tells a screen reader nothing: the summary and the table of figures do.
    plot.root.setAttribute("aria-hidden", "true");
    return plot;
  }

  /** Show the newest figures while no cursor is on the chart. */
  #restLegend() {
    const last = this.data[0].length - 1;
    if (this.plot && (this.plot.cursor.left ?? -1) < 0 && last >= 0) this.plot.setLegend({ idx: last }, false);
  }

  /** @param {number} low @param {number} high @returns {[number, number]} */
  #bounds(low, high) {
    [low, high] = within(this.extremes, low, high);
    const span = Math.max(high - low, Math.abs(high) * 0.02, 1e-3);
    const top = high + span * 0.1;
    const bottom = low - span * 0.1;
    return [
      this.spec.fromZero && low >= 0 ? 0 : bottom,
      this.spec.ceiling !== undefined && high <= this.spec.ceiling
        ? Math.min(this.spec.ceiling + span * 0.02, top)
        : top,
    ];
  }

  #summary() {
    const said = this.lines.map(({ label }, i) => {
      const values = this.data[i + 1].filter(known);
      if (!values.length) return `${label}: not known.`;
      const low = values.reduce((/** @type {number} */ a, /** @type {number} */ b) => Math.min(a, b));
      const high = values.reduce((/** @type {number} */ a, /** @type {number} */ b) => Math.max(a, b));
      const { format } = this.spec;
      return `${label}: now ${format(values.at(-1))}, lowest ${format(low)}, highest ${format(high)}.`;
    });
    return `${said.join(" ")} From ${clock(this.data[0][0])} to ${clock(this.data[0].at(-1))}.`;
  }
}

/** Leave out zeros that only a figure needs: "100.0 %" is "100 %" at an axis. @param {string} text */
const short = (text) => text.replace(/(\.\d*?)0+(?!\d)/, "$1").replace(/\.(?!\d)/, "");

/** How lines are told apart without colour. */
const STROKES = [
  () => ({ stroke: colour("accent"), width: 2 }),
  () => ({ stroke: colour("muted"), width: 1.5, dash: [6, 4] }),
  () => ({ stroke: colour("text"), width: 0, paths: () => null }),
  () => ({ stroke: colour("accent"), width: 1.2, dash: [2, 3] }),
  () => ({ stroke: colour("accent"), width: 1.2, dash: [10, 3, 2, 3] }),
  () => ({ stroke: colour("muted"), width: 1.2, dash: [2, 3] }),
];

/** @param {(number | null)[]} values @param {number | null} index */
function knownUpTo(values, index) {
  for (let i = index ?? values.length - 1; i >= 0; i -= 1) if (values[i] !== null) return values[i];
  return null;
}

/** @param {any} _plot @param {number[]} splits @param {number} _axis @param {number} _space @param {number} step */
function timeLabels(_plot, splits, _axis, _space, step) {
  let day = "";
  return splits.map((seconds) => {
    const moment = new Date(seconds * 1000);
    const date = moment.toLocaleDateString("en-GB", { day: "numeric", month: "short" });
    if (step >= 86400) return date;
    const changed = day !== "" && date !== day;
    day = date;
    const time = moment.toLocaleTimeString("en-GB", {
      hour: "2-digit",
      minute: "2-digit",
      second: step < 60 ? "2-digit" : undefined,
    });
    return changed ? `${time}\n${date}` : time;
  });
}
