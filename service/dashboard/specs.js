/** The fields for a spec: completed part by part, explained while it is typed. */

import { Problem, get } from "./api.js";
import { fill, h } from "./dom.js";

/** @typedef {{name: string, kind: string, summary: string}} Part */

/** @type {Promise<Part[]> | null} */
let loading = null;

/**
 * Return the fields, and how to read what to change from them.
 *
 * @param {import("./change.js").View} view
 * @returns {{elements: HTMLElement[], read: (fields: FormData) => object}}
 */
export function specFields(view) {
  const list = h("datalist", { id: "spec-parts" });
  const explained = h("ul", { class: "parts", "aria-live": "polite" });
  const input = /** @type {HTMLInputElement} */ (
    h("input", {
      id: "spec",
      name: "spec",
      list: "spec-parts",
      value: view.adapter,
      required: true,
      maxlength: 256,
      autocomplete: "off",
      spellcheck: "false",
      "aria-describedby": "spec-hint",
    })
  );
  const options = h("textarea", {
    id: "spec-options",
    name: "options",
    rows: 3,
    spellcheck: "false",
    placeholder: '{"tent": {"lr": 0.0001}}',
  });
  input.addEventListener("input", show);
  show();

  async function show() {
    const parts = await allParts();
    const typed = input.value.split("+").map((name) => name.trim());
    const before = typed.slice(0, -1).join("+");
    const offered = parts.filter(({ name }) => !typed.slice(0, -1).includes(name));
    fill(
      list,
      offered.map(({ name, kind, summary }) =>
        h("option", { value: before ? `${before}+${name}` : name }, `${kind}: ${summary}`),
      ),
    );
    const named = typed.flatMap((name) => parts.filter((part) => part.name === name));
    fill(
      explained,
      named.map(({ name, kind, summary }) =>
        h("li", {}, h("code", {}, name), h("span", { class: "tag" }, kind), ` ${summary}`),
      ),
    );
  }

  const elements = [
    h("label", { for: "spec" }, "Spec"),
    input,
    list,
    h(
      "p",
      { class: "hint", id: "spec-hint" },
      "A normalizer, a learner, an output adjuster, joined by +; any may be left out. Or the selector auto.",
    ),
    explained,
    h(
      "details",
      {},
      h("summary", {}, "Options"),
      h("label", { for: "spec-options" }, "By part, as JSON; if empty, the adapter's own"),
      options,
    ),
  ];
  return { elements, read };
}

/** @param {FormData} fields @returns {object} */
function read(fields) {
  const adapter = String(fields.get("spec")).trim();
  const text = String(fields.get("options") ?? "").trim();
  if (!text) return { adapter };
  try {
    return { adapter, options: JSON.parse(text) };
  } catch {
    throw new Problem(0, 'The options are not JSON, expected a form such as {"tent": {"lr": 0.0001}}.');
  }
}

/** @returns {Promise<Part[]>} */
async function allParts() {
  loading ??= get("v1/adapters").then(({ items }) => items);
  try {
    return await loading;
  } catch {
    // The field works without help; it is asked for again at the next key.
    loading = null;
    return [];
  }
}
