/** The colours that canvases draw with: read from the style sheet, anew when the theme changes. */

/** @type {Map<string, string>} */
const read = new Map();

/** @param {string} name a custom property without its dashes @returns {string} */
export function colour(name) {
  let value = read.get(name);
  if (value === undefined) {
    value = getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
    read.set(name, value);
  }
  return value;
}

/** @param {string} hex such as #1a2b3c @returns {[number, number, number]} */
export function channels(hex) {
  const number = parseInt(hex.slice(1), 16);
  return [(number >> 16) & 255, (number >> 8) & 255, number & 255];
}

/** Forget what was read; drawings follow the event `theme`. */
export function themeChanged() {
  read.clear();
  document.dispatchEvent(new Event("theme"));
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", themeChanged);
