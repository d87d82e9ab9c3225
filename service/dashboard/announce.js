/** Announcements for screen readers, and notes on the page. */

import { button, h } from "./dom.js";

const SHOWN_MILLISECONDS = 8000;

/**
 * Say something once the screen reader is done with what it reads.
 *
 * @param {string} text
 */
export function say(text) {
  put("said", text);
}

/**
 * Show a note for a while and say it.
 *
 * @param {string} text
 * @param {{lasting?: boolean}} [how] a lasting note stays until it is dismissed
 */
export function note(text, { lasting = false } = {}) {
  const box = h("div", { class: "toast" }, h("p", {}, text));
  box.append(button("Dismiss", () => box.remove(), { class: "button small" }));
  document.getElementById("toasts")?.append(box);
  say(text);
  if (!lasting) setTimeout(() => box.remove(), SHOWN_MILLISECONDS);
}

/** @param {string} id @param {string} text */
function put(id, text) {
  const region = document.getElementById(id);
  if (!region) return;
  // The same text twice is said twice only if the region was empty in between.
  region.textContent = "";
  setTimeout(() => {
    region.textContent = text;
  }, 50);
}
