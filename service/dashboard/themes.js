/** The button for colours: as the system, light, dark; remembered. */

import { fill } from "./dom.js";
import { icon } from "./icons.js";
import { themeChanged } from "./palette.js";

const REMEMBERED = "acclimate.theme";
const THEMES = ["system", "light", "dark"];

/** Make the button work. @param {HTMLElement} button */
export function offerThemes(button) {
  let current = document.documentElement.dataset.theme ?? "system";
  const show = () => {
    fill(button, icon(current));
    const words = `Colours: ${current === "system" ? "as the system" : current}`;
    button.setAttribute("aria-label", words);
    button.title = words;
  };
  button.addEventListener("click", () => {
    current = THEMES[(THEMES.indexOf(current) + 1) % THEMES.length];
    if (current === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = current;
    remember(current);
    show();
    themeChanged();
  });
  show();
}

/** @param {string} theme */
function remember(theme) {
  try {
    localStorage.setItem(REMEMBERED, theme);
  } catch {
    // Without storage the choice holds until the page is closed.
  }
}
