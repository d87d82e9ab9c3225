/** An operator's actions on a stream: each shows a dialog that says what will be lost, then makes a call. */

import { changeStream } from "./change.js";
import { ask } from "./dialog.js";
import { h } from "./dom.js";
import { count, plural } from "./format.js";
import { forgets, lastSnapshot } from "./losses.js";
import { specFields } from "./specs.js";

/** @typedef {import("./change.js").View} View */
/** @typedef {import("./snapshots.js").Snapshot} Snapshot */

/**
 * What actions need of a page.
 *
 * @typedef {object} Page
 * @property {() => View} view
 * @property {() => Snapshot[]} snapshots newest first
 * @property {() => import("./eventlist.js").Event[]} events newest first
 * @property {(words: string, view?: View | null) => void} done show the effect
 * @property {(words: string) => void} ended
 */

/** @type {Record<View["mode"], {act: string, words: string}>} */
const MODES = {
  adapt: { act: "Adapt", words: "Answers from its state, and learns from every batch." },
  frozen: { act: "Freeze", words: "Answers from its present state, and does not learn. Nothing is lost." },
  shadow: {
    act: "Shadow",
    words: "Answers as the source model, and learns without effect on the answers, so that you can compare both. Nothing is lost.",
  },
};

/** @param {Page} page @param {View["mode"]} [suggested] */
export function changeMode(page, suggested) {
  const view = page.view();
  const options = Object.entries(MODES).map(([mode, { words }]) => {
    const radio = h("input", { type: "radio", name: "mode", value: mode, checked: mode === (suggested ?? view.mode) });
    return h(
      "label",
      { class: "choice" },
      radio,
      h("span", {}, h("strong", {}, mode), mode === view.mode ? " (now)" : "", h("small", {}, words)),
    );
  });
  return ask({
    title: `Mode of ${view.id}`,
    body: [h("fieldset", {}, h("legend", {}, "What the stream does with the next request"), options)],
    confirm: "Set the mode",
    async run(fields, anyway) {
      const mode = /** @type {View["mode"]} */ (fields.get("mode"));
      const after = await changeStream(view, { method: "PATCH", body: { mode } }, anyway);
      page.done(`${view.id} is in mode ${mode} now.`, after);
    },
  });
}

/** @param {Page} page */
export function changeAdapter(page) {
  const view = page.view();
  const { elements, read } = specFields(view);
  return ask({
    title: `Adapter of ${view.id}`,
    body: [
      ...elements,
      h(
        "p",
        { class: "loses" },
        `${forgets("A new adapter", view, page.events())} Snapshots stay, but can only be restored under the adapter they were taken with. ${lastSnapshot(view, page.snapshots())}`,
      ),
    ],
    confirm: "Change the adapter",
    danger: view.steps > 0,
    async run(fields, anyway) {
      const after = await changeStream(view, { method: "PATCH", body: read(fields) }, anyway);
      page.done(`${view.id} now adapts by ${after.adapter}, from its initial state.`, after);
    },
  });
}

/** @param {Page} page */
export function reset(page) {
  const view = page.view();
  return ask({
    title: `Reset ${view.id}?`,
    body: [
      h("p", { class: "loses" }, forgets("Reset", view, page.events())),
      h(
        "p",
        {},
        `It starts again from the source model, with the same adapter. Snapshots stay. ${lastSnapshot(view, page.snapshots())}`,
      ),
    ],
    confirm: "Reset the stream",
    danger: true,
    async run(_fields, anyway) {
      const after = await changeStream(view, { method: "POST", path: "/reset" }, anyway);
      page.done(
        `${view.id} was reset: it starts again from the source model at generation ${count(after.generation)}.`,
        after,
      );
    },
  });
}

/** @param {Page} page */
export function endStream(page) {
  const view = page.view();
  const kept = page.snapshots().length;
  return ask({
    title: `End ${view.id}?`,
    body: [
      h("p", { class: "loses" }, `${forgets("Ending", view, page.events())} Its history is deleted too.`),
      h(
        "p",
        {},
        `${kept ? `${plural(kept, "snapshot")} ${kept === 1 ? "stays" : "stay"}.` : "It has no snapshot."} If another image is sent to it, a new stream with this name begins.`,
      ),
    ],
    confirm: "End the stream",
    danger: true,
    async run(_fields, anyway) {
      await changeStream(view, { method: "DELETE" }, anyway);
      page.ended(`${view.id} was ended.`);
    },
  });
}
