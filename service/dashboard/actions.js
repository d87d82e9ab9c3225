/** What an operator can do to a stream: each is a question that says what will be lost, then a call. */

import { call, get } from "./api.js";
import { changeStream } from "./change.js";
import { ask } from "./dialog.js";
import { h } from "./dom.js";
import { agoElement, bytes, count, plural } from "./format.js";
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
  adapt: { act: "Adapt", words: "Answers by what it has learned, and learns from every batch." },
  frozen: { act: "Freeze", words: "Answers by what it has learned so far, and learns nothing more. Nothing is lost." },
  shadow: { act: "Shadow", words: "Answers as the source model, and learns beside it, so that the two can be compared. Nothing is lost." },
};

/** @param {Page} page @param {View["mode"]} [suggested] */
export function changeMode(page, suggested) {
  const view = page.view();
  const options = Object.entries(MODES).map(([mode, { words }]) => {
    const radio = h("input", { type: "radio", name: "mode", value: mode, checked: mode === (suggested ?? view.mode) });
    return h("label", { class: "choice" }, radio, h("span", {}, h("strong", {}, mode), mode === view.mode ? " (now)" : "", h("small", {}, words)));
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
      h("p", { class: "loses" }, `${forgets("A new adapter", view, page.events())} Snapshots stay, but can only be restored under the adapter they were taken with. ${lastSnapshot(view, page.snapshots())}`),
    ],
    confirm: "Change the adapter",
    danger: view.steps > 0,
    async run(fields, anyway) {
      const after = await changeStream(view, { method: "PATCH", body: read(fields) }, anyway);
      page.done(`${view.id} adapts by ${after.adapter} now, from its initial state.`, after);
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
      h("p", {}, `It starts again from the source model, by the same adapter. Snapshots stay. ${lastSnapshot(view, page.snapshots())}`),
    ],
    confirm: "Reset the stream",
    danger: true,
    async run(_fields, anyway) {
      const after = await changeStream(view, { method: "POST", path: "/reset" }, anyway);
      page.done(`${view.id} was reset: it starts again from the source model at generation ${count(after.generation)}.`, after);
    },
  });
}

/** @param {Page} page */
export function takeSnapshot(page) {
  const view = page.view();
  return ask({
    title: `Take a snapshot of ${view.id}`,
    body: [
      h("p", {}, `Keeps what it has learned at about generation ${count(view.generation)}: ${bytes(view.state_bytes)}. The stream goes on meanwhile.`),
      h("label", { for: "snapshot-name" }, "Name"),
      h("input", { id: "snapshot-name", name: "name", maxlength: 128, placeholder: `g${view.generation}`, pattern: "[A-Za-z0-9][A-Za-z0-9._\\-]*", title: "Letters, digits, dots, dashes and underscores", autocomplete: "off" }),
      h("p", { class: "hint" }, "Left empty, it is named by its generation."),
      h("label", { for: "snapshot-note" }, "Note"),
      h("textarea", { id: "snapshot-note", name: "note", rows: 2, maxlength: 4096, placeholder: "Why it is worth keeping" }),
    ],
    confirm: "Take the snapshot",
    async run(fields) {
      const name = String(fields.get("name") ?? "").trim();
      const note = String(fields.get("note") ?? "").trim();
      const body = { ...(name ? { name } : {}), ...(note ? { note } : {}) };
      const taken = await call("POST", `v1/streams/${encodeURIComponent(view.id)}/snapshots`, { body });
      page.done(`Snapshot ${taken.name} was taken: generation ${count(taken.generation)}, ${bytes(taken.bytes)}.`);
    },
  });
}

/** @param {Page} page @param {Snapshot} [chosen] */
export function restore(page, chosen) {
  const view = page.view();
  const snapshots = page.snapshots();
  const select = h(
    "select",
    { id: "restore-snapshot", name: "snapshot" },
    snapshots.map(({ id, name, generation }) => h("option", { value: id, selected: id === chosen?.id }, `${name} (generation ${count(generation)})`)),
  );
  const foreign = (chosen ? [chosen] : snapshots).some(({ adapter }) => adapter !== view.adapter);
  return ask({
    title: chosen ? `Restore ${chosen.name}?` : `Restore ${view.id}`,
    body: [
      chosen ? h("input", { type: "hidden", name: "snapshot", value: chosen.id }) : h("label", { for: "restore-snapshot" }, "Snapshot"),
      chosen ? null : select,
      h("p", { class: "loses" }, forgets("Restore", view, page.events())),
      chosen ? h("p", {}, `${view.id} goes on from ${plural(chosen.steps, "learning step")}, kept `, agoElement(chosen.created), ". The snapshot itself stays.") : null,
      foreign ? h("p", { class: "hint" }, `The stream adapts by ${view.adapter}; a snapshot of another adapter is refused.`) : null,
    ],
    confirm: "Restore",
    danger: true,
    async run(fields, anyway) {
      const wanted = String(fields.get("snapshot"));
      const { tta_warning: warning, ...after } = await changeStream(view, { method: "POST", path: "/restore", body: { snapshot: wanted } }, anyway);
      const name = snapshots.find(({ id }) => id === wanted)?.name ?? wanted;
      page.done(`${view.id} goes on from ${name}: ${plural(after.steps, "learning step")}.${warning ? ` ${warning}.` : ""}`, after);
    },
  });
}

/** @param {Page} page @param {Snapshot} snapshot */
export function deleteSnapshot(page, snapshot) {
  const others = page.snapshots().length - 1;
  return ask({
    title: `Delete the snapshot ${snapshot.name}?`,
    body: [
      h("p", { class: "loses" }, `The ${plural(snapshot.steps, "learning step")} that it keeps are lost for good. The stream itself is not touched.`),
      h("p", {}, others > 0 ? `${plural(others, "other snapshot")} of this stream ${others === 1 ? "stays" : "stay"}.` : "It is the only snapshot of this stream."),
    ],
    confirm: "Delete the snapshot",
    danger: true,
    async run() {
      await call("DELETE", `v1/snapshots/${encodeURIComponent(snapshot.id)}`);
      page.done(`Snapshot ${snapshot.name} was deleted.`);
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
      h("p", { class: "loses" }, `${forgets("Ending", view, page.events())} Its history goes too.`),
      h("p", {}, `${kept ? `${plural(kept, "snapshot")} ${kept === 1 ? "stays" : "stay"}.` : "It has no snapshot."} If it is sent another image, a stream of this name begins anew.`),
    ],
    confirm: "End the stream",
    danger: true,
    async run(_fields, anyway) {
      await changeStream(view, { method: "DELETE" }, anyway);
      page.ended(`${view.id} was ended.`);
    },
  });
}

/** Load what a page shows of snapshots. @param {string} id @returns {Promise<Snapshot[]>} */
export async function loadSnapshots(id) {
  const { items } = await get(`v1/streams/${encodeURIComponent(id)}/snapshots?limit=100`);
  return items;
}
