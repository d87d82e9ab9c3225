/** Drift of each layer over time as a picture: layers down, time across; and in a sentence. */

import { button, fill, h, setText } from "./dom.js";
import { clock, decimal } from "./format.js";
import { channels, colour } from "./palette.js";

const ROW = 24;
const LEAST_ROW = 5;
const MOST_HEIGHT = 420;
const AXIS = 20;
const EXACT_SECONDS = 600; // a shorter time is told to the second
const FONT = '11px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif';

/** @type {["values" | "divergences", string][]} how far a layer is from training can be told in two ways */
const MEASURES = [
  ["values", "Wasserstein"],
  ["divergences", "Symmetric KL"],
];

/** @typedef {import("./series.js").Layers} Layers */

export class HeatMap {
  constructor() {
    /** @type {Layers} */
    this.layers = { names: [], times: [], values: [], divergences: [] };
    /** @type {"values" | "divergences"} */
    this.measure = "values";
    this.measureButtons = MEASURES.map(([measure, words]) =>
      button(words, () => this.#choose(measure), { class: "chip", "aria-pressed": String(measure === this.measure) }),
    );
    this.measures = h("div", { class: "chips", role: "group", "aria-label": "Distance shown" }, this.measureButtons);
    this.canvas = /** @type {HTMLCanvasElement} */ (h("canvas", { class: "heat", "aria-hidden": "true" }));
    this.place = h("div", { class: "heat-place" }, this.canvas);
    this.summary = h("p", {});
    this.readout = h("p", { class: "hint readout", "aria-hidden": "true" });
    this.scale = h("p", { class: "heat-scale hint", "aria-hidden": "true" });
    this.table = h("tbody", {});
    this.element = h(
      "section",
      { class: "card", "aria-labelledby": "layers-title" },
      h("div", { class: "section-head" }, h("h2", { id: "layers-title" }, "Drift by layer"), this.measures),
      this.summary,
      this.place,
      h("div", { class: "heat-foot" }, this.readout, this.scale),
      h(
        "details",
        {},
        h("summary", {}, "All layers as a table"),
        h(
          "table",
          { class: "figures-table" },
          h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Layer"), h("th", { scope: "col" }, "Drift now"))),
          this.table,
        ),
      ),
    );
    this.canvas.addEventListener("pointermove", (event) => this.#read(event));
    this.canvas.addEventListener("pointerleave", () => setText(this.readout, ""));
    this.shown = "";
    this.redraw = () => this.#draw();
    this.sizes = new ResizeObserver(this.redraw);
    this.sizes.observe(this.place);
    document.addEventListener("theme", this.redraw);
  }

  /** @param {Layers} layers */
  show(layers) {
    this.layers = layers;
    this.element.hidden = layers.times.length === 0;
    if (this.element.hidden) return;
    const both = layers.divergences.length === layers.times.length;
    this.measures.hidden = !both;
    if (!both) this.measure = "values";
    const state = `${this.measure} ${layers.names.join()} ${layers.times.at(-1)}`;
    if (state === this.shown) return;
    this.shown = state;
    this.#draw();
    const now = layers[this.measure][layers.times.length - 1];
    const order = layers.names.map((name, i) => ({ name, value: now[i] })).sort((a, b) => b.value - a.value);
    const nearest = order[order.length - 1];
    fill(
      this.summary,
      "Furthest from training now: ",
      h("strong", {}, order[0].name),
      ` (${decimal(order[0].value, 2)})`,
      order.length > 1
        ? `, then ${order[1].name} (${decimal(order[1].value, 2)}); nearest ${nearest.name} (${decimal(nearest.value, 2)}).`
        : ".",
    );
    fill(
      this.table,
      order.map(({ name, value }) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, decimal(value)))),
    );
  }

  destroy() {
    this.sizes.disconnect();
    document.removeEventListener("theme", this.redraw);
  }

  /** @param {"values" | "divergences"} measure */
  #choose(measure) {
    this.measure = measure;
    MEASURES.forEach(([each], i) => this.measureButtons[i].setAttribute("aria-pressed", String(each === measure)));
    this.show(this.layers);
  }

  #draw() {
    const { names, times } = this.layers;
    const values = this.layers[this.measure];
    const width = this.place.clientWidth;
    if (!times.length || !width) return;
    const row = Math.max(LEAST_ROW, Math.min(ROW, MOST_HEIGHT / names.length));
    const height = Math.ceil(row * names.length);
    const unit = devicePixelRatio || 1;
    this.canvas.width = width * unit;
    this.canvas.height = (height + AXIS) * unit;
    this.canvas.style.height = `${height + AXIS}px`;
    const pen = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
    pen.setTransform(unit, 0, 0, unit, 0, 0);
    pen.font = FONT;
    pen.textBaseline = "middle";
    const left = gutter(pen, names, width);
    const most = Math.max(0.1, ...values.map((layer) => Math.max(...layer.filter(Number.isFinite), 0)));
    this.frame = { left, row, width };
    values.forEach((layer, column) => {
      const x = this.#x(times[column]);
      const next = column + 1 < times.length ? this.#x(times[column + 1]) : width;
      layer.forEach((value, i) => {
        pen.fillStyle = shade(value / most);
        pen.fillRect(x, i * row, Math.max(1, next - x + 0.5), row - (row > 8 ? 1 : 0));
      });
    });
    drawLabels(pen, names, left, row);
    pen.fillStyle = colour("muted");
    pen.textAlign = "left";
    const last = times[times.length - 1];
    const exact = last - times[0] < EXACT_SECONDS;
    pen.fillText(clock(times[0], exact), left, height + AXIS / 2 + 2);
    pen.textAlign = "right";
    pen.fillText(clock(last, exact), width, height + AXIS / 2 + 2);
    this.#showScale(most);
  }

  /** @param {number} time */
  #x(time) {
    const { times } = this.layers;
    const { left, width } = /** @type {{left: number, width: number}} */ (this.frame);
    // The newest row needs a place too: as wide as rows are on average.
    const first = times[0];
    const span = times[times.length - 1] - first;
    const whole = times.length > 1 ? span * (1 + 1 / (times.length - 1)) : 1;
    return left + ((width - left) * (time - first)) / (whole || 1);
  }

  /** @param {number} most */
  #showScale(most) {
    if (this.scale.dataset.most === `${most}`) return;
    this.scale.dataset.most = `${most}`;
    fill(this.scale, "0", h("span", { class: "heat-ramp" }), decimal(most, 2));
  }

  /** @param {PointerEvent} event */
  #read(event) {
    const { names, times } = this.layers;
    const values = this.layers[this.measure];
    const { row } = this.frame ?? { row: ROW };
    const layer = Math.floor(event.offsetY / row);
    const column = times.findLastIndex((time) => this.#x(time) <= event.offsetX);
    if (column < 0 || layer >= names.length) return setText(this.readout, "");
    setText(this.readout, `${names[layer]}, ${clock(times[column], true)}: ${decimal(values[column][layer])}`);
  }
}

/** The room that names take. @param {CanvasRenderingContext2D} pen @param {string[]} names @param {number} width */
function gutter(pen, names, width) {
  const longest = Math.max(...names.map((name) => pen.measureText(name).width));
  return Math.ceil(Math.min(longest + 10, width * 0.32));
}

/** @param {CanvasRenderingContext2D} pen @param {string[]} names @param {number} left @param {number} row */
function drawLabels(pen, names, left, row) {
  const every = Math.ceil(13 / row);
  pen.fillStyle = colour("muted");
  pen.textAlign = "right";
  for (let i = 0; i < names.length; i += every) {
    let name = names[i];
    // The end of a layer's name tells it from its neighbours.
    while (name.length > 2 && pen.measureText(name).width > left - 8) name = `…${name.replace(/^…/, "").slice(1)}`;
    pen.fillText(name, left - 8, (i + 0.5) * row);
  }
}

/** @param {number} share from 0 to 1 @returns {string} */
function shade(share) {
  if (!Number.isFinite(share)) return colour("line");
  const at = Math.max(0, Math.min(1, share)) * 2;
  const from = channels(colour(at < 1 ? "heat-0" : "heat-1"));
  const to = channels(colour(at < 1 ? "heat-1" : "heat-2"));
  const part = at < 1 ? at : at - 1;
  const [r, g, b] = from.map((value, i) => Math.round(value + (to[i] - value) * part));
  return `rgb(${r} ${g} ${b})`;
}
