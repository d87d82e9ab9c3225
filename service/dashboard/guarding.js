/** The dialog that shows and changes a stream's guard policy. */

import { Problem } from "./api.js";
import { changeStream } from "./change.js";
import { ask } from "./dialog.js";
import { h } from "./dom.js";
import { guardFields } from "./guardfields.js";
import { LIMITS, RULES } from "./policies.js";

/** @typedef {import("./guardfields.js").Policy} Policy */

/** @param {import("./actions.js").Page} page */
export function changeGuard(page) {
  const view = page.view();
  const policy = /** @type {Policy} */ (view.guard);
  const { elements, read } = guardFields(policy);
  const intro = h(
    "p",
    { id: "guard-intro" },
    "The guard checks every step, and acts on the first rule that applies. The learned state stays; " +
      "the new policy applies from the next request.",
  );
  return ask({
    title: `Guard of ${view.id}`,
    body: [intro, ...elements],
    described: "guard-intro",
    confirm: "Set the guard",
    async run(_fields, anyway) {
      const guard = read();
      const changed = [...RULES, ...LIMITS].filter(({ name }) => guard[name] !== policy[name]);
      if (!changed.length) throw new Problem(0, "Nothing is changed yet.");
      const after = await changeStream(view, { method: "PATCH", body: { guard } }, anyway);
      page.done(
        `${view.id} has a new guard policy: ${changed.map(({ title }) => title.toLowerCase()).join(", ")}.`,
        after,
      );
    },
  });
}
