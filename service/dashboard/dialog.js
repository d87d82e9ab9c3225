/** A dialog that explains an action before it is done, and shows why it failed. */

import { Problem } from "./api.js";
import { button, h } from "./dom.js";
import { sentence } from "./format.js";

/**
 * @typedef {object} Question
 * @property {string} title
 * @property {import("./dom.js").Child[]} body
 * @property {string} confirm what the button says: the act itself, never "OK"
 * @property {boolean} [danger] whether something is lost
 * @property {string} [described] the id of what says enough of a long body
 * @property {(fields: FormData, anyway: boolean) => Promise<void>} run
 */

let made = 0;

/**
 * Show a question; resolve to whether it was done.
 *
 * @param {Question} question
 * @returns {Promise<boolean>}
 */
export function ask({ title, body, confirm, danger = false, described, run }) {
  return new Promise((resolve) => {
    made += 1;
    const id = `dialog-${made}`;
    const problem = h("p", { class: "problem", role: "alert" });
    const cancel = button("Cancel", () => dialog.close());
    const submit = button(confirm, () => {}, { type: "submit", class: `button ${danger ? "danger" : "primary"}` });
    const form = /** @type {HTMLFormElement} */ (
      h(
        "form",
        { method: "dialog" },
        h("h2", { id: `${id}-title` }, title),
        h("div", { class: "dialog-body", id: `${id}-body` }, body),
        h("div", { class: "dialog-foot" }, problem, h("div", { class: "dialog-buttons" }, cancel, submit)),
      )
    );
    const dialog = /** @type {HTMLDialogElement} */ (
      h("dialog", { "aria-labelledby": `${id}-title`, "aria-describedby": described ?? `${id}-body` }, form)
    );
    let done = false;
    let anyway = false;

    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      problem.textContent = "";
      submit.disabled = true;
      submit.setAttribute("aria-busy", "true");
      try {
        await run(new FormData(form), anyway);
        done = true;
        dialog.close();
      } catch (error) {
        problem.textContent = sentence(error instanceof Error ? error.message : String(error));
        if (error instanceof Overtaken) {
          anyway = true;
          submit.textContent = `${confirm} anyway`;
        }
      } finally {
        submit.disabled = false;
        submit.removeAttribute("aria-busy");
        if (!done) submit.focus();
      }
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      // The button that asked may be gone with what it was about.
      if (document.activeElement === document.body) document.querySelector("h1")?.focus({ preventScroll: true });
      resolve(done);
    });
    document.body.append(dialog);
    dialog.showModal();
    const field =
      form.querySelector("input:checked") ?? form.querySelector("input:not([type=hidden]), select, textarea");
    // Where something is lost, a hasty Enter must change nothing.
    if (field instanceof HTMLElement) field.focus();
    else if (danger) cancel.focus();
    else submit.focus();
  });
}

/** The stream moved on while the operator read; doing it anyway is for the operator to say. */
export class Overtaken extends Problem {
  /** @param {string} words */
  constructor(words) {
    super(412, words);
    this.name = "Overtaken";
  }
}
