/** Draw drift events and guard actions as vertical marks on a chart. */

import { colour } from "./palette.js";

/** @typedef {{time: number, kind: "drift" | "guard"}} Mark */

/**
 * Return a uPlot plugin; drift is dashed under a triangle, guards are solid under a square.
 *
 * @param {() => Mark[]} marks made anew at each call
 */
export function marksPlugin(marks) {
  /** @param {any} chart */
  function draw(chart) {
    const pen = /** @type {CanvasRenderingContext2D} */ (chart.ctx);
    const { left, top, width, height } = chart.bbox;
    const unit = devicePixelRatio || 1;
    pen.save();
    pen.lineWidth = 1.5 * unit;
    // Guards are drawn last: a drift that is told a moment after one must not cover its mark.
    const guardsLast = marks().sort((a, b) => Number(a.kind === "guard") - Number(b.kind === "guard"));
    for (const { time, kind } of guardsLast) {
      const x = Math.round(chart.valToPos(time, "x", true));
      if (x < left || x > left + width) continue;
      pen.strokeStyle = pen.fillStyle = colour(kind === "guard" ? "bad" : "warn");
      pen.setLineDash(kind === "guard" ? [] : [4 * unit, 3 * unit]);
      // Many marks must not hide the line that they are about.
      pen.globalAlpha = 0.55;
      pen.beginPath();
      pen.moveTo(x, top);
      pen.lineTo(x, top + height);
      pen.stroke();
      pen.globalAlpha = 1;
      drawHead(pen, kind, x, top, 4 * unit);
    }
    pen.restore();
  }
  return { hooks: { draw } };
}

/** @param {CanvasRenderingContext2D} pen @param {string} kind @param {number} x @param {number} y @param {number} size */
function drawHead(pen, kind, x, y, size) {
  if (kind === "guard") return pen.fillRect(x - size, y - size, 2 * size, 2 * size);
  pen.beginPath();
  pen.moveTo(x - size * 1.2, y - size);
  pen.lineTo(x + size * 1.2, y - size);
  pen.lineTo(x, y + size);
  pen.fill();
}
