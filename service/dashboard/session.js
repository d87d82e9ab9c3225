/** Sign in by a key, once for all calls that wait for it, and sign out. */

import { note } from "./announce.js";
import { button, h } from "./dom.js";
import { learnRights } from "./rights.js";

const REMEMBERED = "acclimate.signed-in";

/** @type {Promise<void> | null} */
let asking = null;

/**
 * Ask for a key until the server takes one; calls made meanwhile wait for the same answer.
 *
 * @returns {Promise<void>}
 */
export function signIn() {
  asking ??= ask().finally(() => {
    asking = null;
  });
  return asking;
}

/** Whether this browser has signed in (the cookie itself cannot be read by the page). */
export function signedIn() {
  try {
    return localStorage.getItem(REMEMBERED) === "yes";
  } catch {
    return false;
  }
}

/** End the session and begin anew. */
export async function signOut() {
  try {
    await fetch("v1/session", { method: "DELETE" });
  } catch {
    note("The server does not answer: you are still signed in.");
    return;
  }
  remember(false);
  location.reload();
}

/** @returns {Promise<void>} */
function ask() {
  return new Promise((resolve) => {
    const input = h("input", {
      id: "key",
      name: "key",
      type: "password",
      autocomplete: "current-password",
      required: true,
    });
    const problem = h("p", { class: "problem", role: "alert", hidden: true });
    const submit = button("Sign in", () => {}, { type: "submit", class: "button primary" });
    const form = h(
      "form",
      { method: "dialog" },
      h("h2", { id: "sign-in-title" }, "Sign in"),
      h("p", {}, "This server needs a key. The session is kept in a cookie that scripts cannot read."),
      h("label", { for: "key" }, "Key"),
      input,
      h("p", { class: "hint" }, "A key with the scope read can see everything here; one with admin can also change streams."),
      problem,
      h("div", { class: "dialog-buttons" }, submit),
    );
    const dialog = /** @type {HTMLDialogElement} */ (h("dialog", { "aria-labelledby": "sign-in-title" }, form));
    // Escape would leave a page that can show nothing.
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    dialog.addEventListener("close", () => document.contains(dialog) && dialog.showModal());
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      submit.setAttribute("disabled", "");
      const words = await refusal(/** @type {HTMLInputElement} */ (input).value);
      submit.removeAttribute("disabled");
      if (words === "") {
        dialog.remove();
        remember(true);
        resolve();
        return;
      }
      problem.textContent = words;
      problem.hidden = false;
      /** @type {HTMLInputElement} */ (input).select();
    });
    document.body.append(dialog);
    dialog.showModal();
    input.focus();
  });
}

/** Try a key; return why it was refused, or "". @param {string} key @returns {Promise<string>} */
async function refusal(key) {
  try {
    const response = await fetch("v1/session", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ key }),
    });
    if (response.ok) return "";
    if (response.status === 401) return "The server does not know this key.";
    const body = await response.json().catch(() => ({}));
    return typeof body.error === "string" ? body.error : `The server answered ${response.status}.`;
  } catch {
    return "The server does not answer. Is it running?";
  }
}

/** @param {boolean} yes */
function remember(yes) {
  try {
    if (yes) localStorage.setItem(REMEMBERED, "yes");
    else localStorage.removeItem(REMEMBERED);
  } catch {
    // Without storage there is no sign-out button after a reload; the cookie still ends with the browser.
  }
  document.dispatchEvent(new Event("session"));
  learnRights();
}
