/** What to do when there is no stream yet: a request to copy. */

import { note } from "./announce.js";
import { button, h } from "./dom.js";
import { signedIn } from "./session.js";

/** @param {string} model @returns {HTMLElement} */
export function teach(model) {
  const base = new URL(".", location.href).href.replace(/\/$/, "");
  const command = [
    `curl ${base}/v2/models/${model}/infer`,
    ...(signedIn() ? ["-H 'Authorization: Bearer YOUR-KEY'"] : []),
    "-H 'Content-Type: image/png'",
    "-H 'X-Stream-Id: camera-7'",
    "--data-binary @image.png",
  ].join(" \\\n  ");
  const code = h("code", {}, command);
  return h(
    "section",
    { class: "card teach" },
    h("h2", {}, "No streams yet"),
    h(
      "p",
      {},
      "A stream is one camera or site: an ordered sequence of images with its own adapted copy of the model. ",
      "It begins with its first request. Send one, and the stream appears here:",
    ),
    h(
      "div",
      { class: "command" },
      h("pre", { tabindex: 0 }, code),
      button("Copy", () => copy(command, code), { class: "button small" }),
    ),
    h(
      "p",
      { class: "hint" },
      "Requests with the same ",
      h("code", {}, "X-Stream-Id"),
      " share one adapted state; streams share nothing with each other. ",
      h("a", { href: "docs" }, "The whole API"),
      ".",
    ),
  );
}

/** @param {string} text @param {HTMLElement} element */
async function copy(text, element) {
  try {
    await navigator.clipboard.writeText(text);
    note("Copied.");
  } catch {
    // Browsers allow the clipboard on secure pages only; elsewhere the text is selected for the operator's own copy.
    getSelection()?.selectAllChildren(element);
    note("Selected. Copy it with Ctrl+C.");
  }
}
