/** Bars from the lowest to the highest value of each point that stands for several requests. */

import { known } from "./format.js";
import { colour } from "./palette.js";

/** @typedef {{low: (number | null)[], high: (number | null)[]}} Extremes one of each for every point, or none */

/** Return a uPlot plugin that draws a bar from each point's lowest to its highest value, below the lines. @param {() => Extremes} extremes */
export function rangePlugin(extremes) {
  /** @param {any} plot */
  function draw(plot) {
    const { low, high } = extremes();
    const { left, top, width, height } = plot.bbox;
    const pen = plot.ctx;
    pen.save();
    pen.beginPath();
    pen.rect(left, top, width, height);
    pen.clip();
    pen.globalAlpha = 0.25;
    pen.fillStyle = colour("accent");
    const wide = Math.max(2, width / Math.max(1, plot.data[0].length));
    plot.data[0].forEach((/** @type {number} */ time, /** @type {number} */ i) => {
      const bottom = low[i];
      const peak = high[i];
      if (!known(bottom) || !known(peak)) return;
      const y = plot.valToPos(peak, "y", true);
      pen.fillRect(plot.valToPos(time, "x", true) - wide / 2, y, wide, Math.max(1, plot.valToPos(bottom, "y", true) - y));
    });
    pen.restore();
  }
  return { hooks: { drawAxes: [draw] } };
}

/** Widen bounds so that all extremes lie within. @param {Extremes} extremes @param {number} least @param {number} most @returns {[number, number]} */
export function within({ low, high }, least, most) {
  const lowest = low.reduce((/** @type {number} */ a, b) => (known(b) ? Math.min(a, b) : a), least);
  const highest = high.reduce((/** @type {number} */ a, b) => (known(b) ? Math.max(a, b) : a), most);
  return [lowest, highest];
}
