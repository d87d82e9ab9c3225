/** Make DOM nodes from plain values; text is always text, never markup. */

/** @typedef {Node | string | number | null | undefined | false} Child */

/**
 * Return a new element.
 *
 * Attributes that are null, undefined or false are left out; `on` holds listeners by event name.
 *
 * @param {string} tag
 * @param {Record<string, any>} [attributes]
 * @param {...(Child | Child[])} children
 * @returns {HTMLElement}
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  element.append(...nodes(children));
  return element;
}

/**
 * Put children in place of what an element holds.
 *
 * @param {Element} element
 * @param {...(Child | Child[])} children
 */
export function fill(element, ...children) {
  element.replaceChildren(...nodes(children));
}

/**
 * As `fill`, but the focus stays: at the same link or button if it is still there, else at the page's title.
 *
 * @param {Element} element
 * @param {...(Child | Child[])} children
 */
export function refill(element, ...children) {
  const focused = element.contains(document.activeElement) ? document.activeElement : null;
  fill(element, ...children);
  if (!focused) return;
  const same = [...element.querySelectorAll("a, button")].find((one) => nameOf(one) === nameOf(focused));
  const next = same ?? document.querySelector("h1");
  if (next instanceof HTMLElement) next.focus({ preventScroll: true });
}

/** @param {Element} element */
const nameOf = (element) => element.getAttribute("aria-label") ?? element.getAttribute("href") ?? element.textContent;

/**
 * Set an element's text only where it differs, so that nothing is laid out in vain.
 *
 * @param {Element} element
 * @param {string} text
 */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Return a button.
 *
 * @param {string} text
 * @param {() => void} press
 * @param {Record<string, any>} [attributes]
 * @returns {HTMLButtonElement}
 */
export function button(text, press, attributes = {}) {
  const made = h("button", { type: "button", class: "button", ...attributes, on: { click: press } }, text);
  return /** @type {HTMLButtonElement} */ (made);
}

/**
 * Return text that only screen readers tell.
 *
 * @param {string} text
 * @returns {HTMLElement}
 */
export function hiddenText(text) {
  return h("span", { class: "sr-only" }, text);
}

/** @param {(Child | Child[])[]} children @returns {(Node | string)[]} */
function nodes(children) {
  return children
    .flat()
    .filter((child) => child !== null && child !== undefined && child !== false)
    .map((child) => (child instanceof Node ? child : String(child)));
}
