/** The fields for a guard's policy: a select for each rule, a number for each limit, and what was changed in words. */

import { button, fill, h } from "./dom.js";
import { count, sentence } from "./format.js";
import { LIMITS, RESPONSES, RULES } from "./policies.js";

/** @typedef {import("./policies.js").Rule} Rule */
/** @typedef {import("./policies.js").Limit} Limit */
/** @typedef {Record<string, string | number>} Policy */

/**
 * Return the fields, and how to read the policy from them.
 *
 * @param {Policy} policy as it is
 * @returns {{elements: HTMLElement[], read: () => Policy}}
 */
export function guardFields(policy) {
  const rules = RULES.map((rule) => {
    const select = ruleSelect(rule, policy[rule.name]);
    return field(rule, select, "", () => ruleChange(rule, String(policy[rule.name]), select.value));
  });
  const limits = LIMITS.map((limit) => {
    const amount = Number(policy[limit.name]);
    const input = limitInput(limit, amount);
    return field(limit, input, limit.unit, () => limitChange(limit, amount, amountOf(limit, input, amount)));
  });
  const usual = button(
    "Set all to default",
    () => {
      RULES.forEach((rule, i) => rules[i].set(rule.usual));
      LIMITS.forEach((limit, i) => limits[i].set(String(shown(limit, limit.usual))));
    },
    { class: "button small" },
  );
  const elements = [
    h(
      "fieldset",
      {},
      h("legend", {}, "Response, by rule"),
      rules.map(({ element }) => element),
    ),
    responsesInWords(),
    h(
      "fieldset",
      {},
      h("legend", {}, "Limits"),
      limits.map(({ element }) => element),
    ),
    h("p", {}, usual),
  ];
  const read = () => ({
    ...policy,
    ...Object.fromEntries(RULES.map(({ name }, i) => [name, rules[i].control.value])),
    ...Object.fromEntries(
      LIMITS.map((limit, i) => {
        const input = /** @type {HTMLInputElement} */ (limits[i].control);
        return [limit.name, amountOf(limit, input, Number(policy[limit.name]))];
      }),
    ),
  });
  return { elements, read };
}

/** Say what another response means, or nothing. @param {Rule} rule @param {string} before @param {string} after */
function ruleChange({ off }, before, after) {
  if (before === after) return null;
  const what = `${sentence(RESPONSES[after].word).slice(0, -1)} instead of ${RESPONSES[before].word}.`;
  return after === "off" ? change(what, off, true) : change(what, RESPONSES[after].does, false);
}

/** Say what another amount means, or nothing. @param {Limit} limit @param {number} before @param {number} after */
function limitChange(limit, before, after) {
  if (before === after) return null;
  const [now, then] = [after, before].map((amount) => `${count(shown(limit, amount))}\u00a0${limit.unit}`);
  return change(`${now} instead of ${then}.`, after === 0 ? limit.zero : "", false);
}

/** @param {string} what @param {string | undefined} means @param {boolean} costly */
const change = (what, means, costly) =>
  h("p", { class: costly ? "loses" : "" }, h("strong", {}, what), means ? ` ${means}` : "");

/** @param {Rule} rule @param {string | number} response */
function ruleSelect({ name, usual, off }, response) {
  const options = Object.entries(RESPONSES).filter(([value]) => value !== "off" || off);
  const select = h(
    "select",
    { id: `guard-${name}`, name, "aria-describedby": `guard-${name}-hint` },
    options.map(([value, { word }]) =>
      h("option", { value, selected: value === response }, value === usual ? `${word} (default)` : word),
    ),
  );
  return /** @type {HTMLSelectElement} */ (select);
}

/** @param {Limit} limit @param {number} amount */
function limitInput(limit, amount) {
  const { name, least, most, unit } = limit;
  const input = h("input", {
    id: `guard-${name}`,
    name,
    type: "number",
    inputmode: "decimal",
    required: true,
    // What the stream has already is never refused here.
    min: shown(limit, Math.min(least, amount)),
    max: shown(limit, most),
    step: unit === "%" ? "any" : 1,
    value: shown(limit, amount),
    "aria-describedby": `guard-${name}-unit guard-${name}-hint`,
  });
  return /** @type {HTMLInputElement} */ (input);
}

/**
 * @param {Rule | Limit} about
 * @param {HTMLSelectElement | HTMLInputElement} control
 * @param {string} unit
 * @param {() => HTMLElement | null} changed
 */
function field(about, control, unit, changed) {
  const { name, title, words } = about;
  const range = "least" in about ? ` ${rangeInWords(about)}` : "";
  const told = h("div", { class: "guard-change", "aria-live": "polite" });
  const tell = () => fill(told, changed());
  control.addEventListener("input", tell);
  const element = h(
    "div",
    { class: "guard-field" },
    h("label", { for: `guard-${name}` }, title),
    h("div", { class: "guard-control" }, control, unit ? h("span", { id: `guard-${name}-unit` }, unit) : null),
    h("p", { class: "hint", id: `guard-${name}-hint` }, `${words}${range}`),
    told,
  );
  /** @param {string} value */
  const set = (value) => {
    control.value = value;
    tell();
  };
  return { element, control, set };
}

/** @param {Limit} limit */
const rangeInWords = (limit) =>
  `From ${count(shown(limit, limit.least))} to ${count(shown(limit, limit.most))}, ${count(shown(limit, limit.usual))} by default.`;

function responsesInWords() {
  const rows = Object.values(RESPONSES).map(({ word, does }) => h("div", {}, h("dt", {}, word), h("dd", {}, does)));
  return h("details", {}, h("summary", {}, "What each response does"), h("dl", { class: "responses" }, rows));
}

/** An amount as the operator counts it. @param {Limit} limit @param {number} amount */
const shown = ({ unit }, amount) => (unit === "%" ? Number((100 * amount).toPrecision(12)) : amount);

/** What a field holds, as the server counts; as it was where nothing else was typed. @param {Limit} limit @param {HTMLInputElement} input @param {number} before */
function amountOf(limit, input, before) {
  const typed = input.valueAsNumber;
  if (!Number.isFinite(typed) || typed === shown(limit, before)) return before;
  return limit.unit === "%" ? Number((typed / 100).toPrecision(12)) : typed;
}
