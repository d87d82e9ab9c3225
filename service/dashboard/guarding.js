/** What an operator can do about a stream's guard: see and change what it does about what is found. */

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
    "The guard looks at every step, and answers the first rule that holds. What the stream has learned stays; " +
      "the new policy holds from its next request.",
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
        `${view.id} has another guard now: ${changed.map(({ title }) => title.toLowerCase()).join(", ")}.`,
        after,
      );
    },
  });
}
