/** Draw a stream's recent entropy as a small line, and say its trend in a word. */

import { isTrouble } from "./badges.js";
import { colour } from "./palette.js";

const WIDTH = 96;
const HEIGHT = 26;
const LEAST_RANGE = 0.2; // nats; less is noise, and must not look like a mountain
const PAD = 3;

/** @param {HTMLCanvasElement} canvas @param {number[]} values @param {string} badge */
export function drawSparkline(canvas, values, badge) {
  const scale = devicePixelRatio || 1;
  if (canvas.width !== WIDTH * scale) {
    canvas.width = WIDTH * scale;
    canvas.height = HEIGHT * scale;
  }
  const pen = canvas.getContext("2d");
  if (!pen) return;
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, WIDTH, HEIGHT);
  const shown = values.filter(Number.isFinite);
  if (!shown.length) return;
  const low = Math.min(...shown);
  const range = Math.max(Math.max(...shown) - low, LEAST_RANGE);
  const x = (/** @type {number} */ i) => PAD + ((WIDTH - 2 * PAD) * (i + 32 - shown.length)) / 31;
  const y = (/** @type {number} */ value) => HEIGHT - PAD - ((HEIGHT - 2 * PAD) * (value - low)) / range;
  pen.strokeStyle = pen.fillStyle = colour(isTrouble(badge) ? "bad" : badge === "drifting" ? "warn" : "accent");
  pen.lineWidth = 1.5;
  pen.lineJoin = "round";
  pen.beginPath();
  shown.forEach((value, i) => (i ? pen.lineTo(x(i), y(value)) : pen.moveTo(x(i), y(value))));
  pen.stroke();
  pen.beginPath();
  pen.arc(x(shown.length - 1), y(shown[shown.length - 1]), 2.2, 0, 7);
  pen.fill();
}

/** @param {number[]} values @returns {string} */
export function trend(values) {
  const shown = values.filter(Number.isFinite);
  if (shown.length < 4) return "too short to tell";
  const quarter = Math.max(1, Math.floor(shown.length / 4));
  const mean = (/** @type {number[]} */ part) => part.reduce((sum, value) => sum + value, 0) / part.length;
  const change = mean(shown.slice(-quarter)) - mean(shown.slice(0, quarter));
  return Math.abs(change) < LEAST_RANGE / 4 ? "level" : change > 0 ? "rising" : "falling";
}
