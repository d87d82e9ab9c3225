/** The actions on a stream that the server cannot load, because its state is damaged or its model has changed. */

import { call, streamPath } from "./api.js";
import { ask } from "./dialog.js";
import { button, h } from "./dom.js";

/**
 * Return the buttons for the two actions that the server allows.
 *
 * @param {string} id
 * @param {{reset: (words: string) => void, ended: (words: string) => void}} done called after an action
 */
export function unfitButtons(id, done) {
  return [
    button("Reset…", () => reset(id, done.reset), { class: "button quiet-danger" }),
    button("End…", () => end(id, done.ended), { class: "button quiet-danger" }),
  ];
}

/** @param {string} id @param {(words: string) => void} done */
function reset(id, done) {
  return ask({
    title: `Reset ${id}?`,
    body: [
      h("p", { class: "loses" }, `Reset deletes everything that ${id} has learned.`),
      h("p", {}, "It starts again from the source model, with the same adapter. Snapshots stay."),
    ],
    confirm: "Reset the stream",
    danger: true,
    async run() {
      await call("POST", `${streamPath(id)}/reset`);
      done(`${id} was reset: it starts again from the source model.`);
    },
  });
}

/** @param {string} id @param {(words: string) => void} done */
function end(id, done) {
  return ask({
    title: `End ${id}?`,
    body: [
      h("p", { class: "loses" }, `Ending deletes everything that ${id} has learned, and its history.`),
      h("p", {}, "Snapshots stay. If another image is sent to it, a new stream with this name begins."),
    ],
    confirm: "End the stream",
    danger: true,
    async run() {
      await call("DELETE", streamPath(id));
      done(`${id} was ended.`);
    },
  });
}
