/** An operator's actions on snapshots: take, restore and delete. */

import { call, get, streamPath } from "./api.js";
import { changeStream } from "./change.js";
import { ask } from "./dialog.js";
import { h } from "./dom.js";
import { agoElement, bytes, count, plural, sentence } from "./format.js";
import { forgetsByRestore } from "./losses.js";

/** @typedef {import("./actions.js").Page} Page */
/** @typedef {import("./snapshots.js").Snapshot} Snapshot */

/** @param {Page} page */
export function takeSnapshot(page) {
  const view = page.view();
  return ask({
    title: `Take a snapshot of ${view.id}`,
    body: [
      h(
        "p",
        {},
        `Saves the learned state at about generation ${count(view.generation)} (${bytes(view.state_bytes)}). The stream continues meanwhile.`,
      ),
      h("label", { for: "snapshot-name" }, "Name"),
      h("input", {
        id: "snapshot-name",
        name: "name",
        maxlength: 128,
        placeholder: `g${view.generation}`,
        pattern: "[A-Za-z0-9][A-Za-z0-9._\\-]*",
        title: "Letters, digits, dots, dashes and underscores",
        autocomplete: "off",
      }),
      h("p", { class: "hint" }, "If empty, the snapshot is named after its generation."),
      h("label", { for: "snapshot-note" }, "Note"),
      h("textarea", {
        id: "snapshot-note",
        name: "note",
        rows: 2,
        maxlength: 4096,
        placeholder: "Why it is worth keeping",
      }),
    ],
    confirm: "Take the snapshot",
    async run(fields) {
      const name = String(fields.get("name") ?? "").trim();
      const note = String(fields.get("note") ?? "").trim();
      const body = { ...(name ? { name } : {}), ...(note ? { note } : {}) };
      const taken = await call("POST", `${streamPath(view.id)}/snapshots`, { body });
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
    snapshots.map(({ id, name, generation }) =>
      h("option", { value: id, selected: id === chosen?.id }, `${name} (generation ${count(generation)})`),
    ),
  );
  const loses = h("p", { class: "loses" });
  const tell = () => {
    const wanted = chosen ?? snapshots.find(({ id }) => id === /** @type {HTMLSelectElement} */ (select).value);
    loses.textContent = wanted ? forgetsByRestore(view, page.events(), wanted) : "";
  };
  select.addEventListener("change", tell);
  tell();
  const foreign = (chosen ? [chosen] : snapshots).some(({ adapter }) => adapter !== view.adapter);
  return ask({
    title: chosen ? `Restore ${chosen.name}?` : `Restore ${view.id}`,
    body: [
      chosen
        ? h("input", { type: "hidden", name: "snapshot", value: chosen.id })
        : h("label", { for: "restore-snapshot" }, "Snapshot"),
      chosen ? null : select,
      loses,
      chosen
        ? h(
            "p",
            {},
            `${view.id} continues from ${plural(chosen.steps, "learning step")}, saved `,
            agoElement(chosen.created),
            ". The snapshot stays.",
          )
        : null,
      foreign
        ? h("p", { class: "hint" }, `The stream's adapter is ${view.adapter}. A snapshot of another adapter is refused.`)
        : null,
    ],
    confirm: "Restore",
    danger: true,
    async run(fields, anyway) {
      const wanted = String(fields.get("snapshot"));
      const { tta_warning: warning, ...after } = await changeStream(
        view,
        { method: "POST", path: "/restore", body: { snapshot: wanted } },
        anyway,
      );
      const name = snapshots.find(({ id }) => id === wanted)?.name ?? wanted;
      page.done(
        `${view.id} continues from ${name}: ${plural(after.steps, "learning step")}.${warning ? ` ${sentence(warning)}` : ""}`,
        after,
      );
    },
  });
}

/** @param {Page} page @param {Snapshot} snapshot */
export function deleteSnapshot(page, snapshot) {
  const others = page.snapshots().length - 1;
  return ask({
    title: `Delete the snapshot ${snapshot.name}?`,
    body: [
      h(
        "p",
        { class: "loses" },
        `The ${plural(snapshot.steps, "learning step")} in it are lost for good. The stream does not change.`,
      ),
      h(
        "p",
        {},
        others > 0
          ? `${plural(others, "other snapshot")} of this stream ${others === 1 ? "stays" : "stay"}.`
          : "It is the only snapshot of this stream.",
      ),
    ],
    confirm: "Delete the snapshot",
    danger: true,
    async run() {
      await call("DELETE", `v1/snapshots/${encodeURIComponent(snapshot.id)}`);
      page.done(`Snapshot ${snapshot.name} was deleted.`);
    },
  });
}

/** Load what a page shows of snapshots. @param {string} id @returns {Promise<Snapshot[]>} */
export async function loadSnapshots(id) {
  const { items } = await get(`${streamPath(id)}/snapshots?limit=100`);
  return items;
}
