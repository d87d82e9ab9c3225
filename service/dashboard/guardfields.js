/** The fields for a guard's policy: a select for each rule, a number for each limit, and what was changed in words. */

import { button, fill, h } from "./dom.js";
import { count } from "./format.js";
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
  const selects = RULES.map((rule) => /** @type {HTMLSelectElement} */ (ruleSelect(rule, policy[rule.name])));
  const inputs = LIMITS.map((limit) => /** @type {HTMLInputElement} */ (limitInput(limit, Number(policy[limit.name]))));
  const told = h("div", { class: "guard-changes", "aria-live": "polite" });
  const read = () => ({
    ...policy,
    ...Object.fromEntries(RULES.map(({ name }, i) => [name, selects[i].value])),
    ...Object.fromEntries(LIMITS.map((limit, i) => [limit.name, amountOf(limit, inputs[i], policy[limit.name])])),
  });
  const tell = () => fill(told, changesInWords(policy, read()));
  const usual = button(
    "Set all to default",
    () => {
      RULES.forEach((rule, i) => (selects[i].value = rule.usual));
      LIMITS.forEach((limit, i) => (inputs[i].value = String(shown(limit, limit.usual))));
      tell();
    },
    { class: "button small" },
  );
  for (const field of [...selects, ...inputs]) field.addEventListener("input", tell);
  tell();
  const elements = [
    h("fieldset", {}, h("legend", {}, "What the guard does where"), RULES.map((rule, i) => field(rule, selects[i]))),
    responsesInWords(),
    h("fieldset", {}, h("legend", {}, "Limits"), LIMITS.map((limit, i) => field(limit, inputs[i], limit.unit))),
    h("p", {}, usual),
    told,
  ];
  return { elements, read };
}

/** Return the changes, each with what it means. @param {Policy} before @param {Policy} after */
export function changesInWords(before, after) {
  const rules = RULES.filter(({ name }) => before[name] !== after[name]).map((rule) => {
    const [now, then] = [after[rule.name], before[rule.name]].map((response) => RESPONSES[response]);
    const costs = after[rule.name] === "off" ? rule.off : now.does;
    return change(`${rule.title}: ${now.word} instead of ${then.word}.`, costs, after[rule.name] === "off");
  });
  const limits = LIMITS.filter(({ name }) => before[name] !== after[name]).map((limit) => {
    const [now, then] = [after, before].map((policy) => amountInWords(limit, Number(policy[limit.name])));
    return change(`${limit.title}: ${now} instead of ${then}.`, after[limit.name] === 0 ? limit.zero : "", false);
  });
  const changes = [...rules, ...limits];
  return changes.length ? changes : [h("p", { class: "hint" }, "Nothing is changed yet.")];
}

/** @param {string} what @param {string | undefined} means @param {boolean} costly */
const change = (what, means, costly) =>
  h("p", { class: costly ? "loses" : "change" }, h("strong", {}, what), means ? ` ${means}` : "");

/** @param {Rule} rule @param {string | number} response */
function ruleSelect({ name, usual, off }, response) {
  const options = Object.entries(RESPONSES).filter(([value]) => value !== "off" || off);
  return h(
    "select",
    { id: `guard-${name}`, name, "aria-describedby": `guard-${name}-hint` },
    options.map(([value, { word }]) =>
      h("option", { value, selected: value === response }, value === usual ? `${word} (default)` : word),
    ),
  );
}

/** @param {Limit} limit @param {number} amount */
function limitInput(limit, amount) {
  const { name, least, most, unit } = limit;
  return h("input", {
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
}

/** @param {Rule | Limit} about @param {HTMLElement} control @param {string} [unit] */
function field(about, control, unit) {
  const { name, title, words } = about;
  const range = "least" in about ? ` ${rangeInWords(about)}` : "";
  return h(
    "div",
    { class: "guard-field" },
    h("label", { for: `guard-${name}` }, title),
    h("div", { class: "guard-control" }, control, unit ? h("span", { id: `guard-${name}-unit` }, unit) : null),
    h("p", { class: "hint", id: `guard-${name}-hint` }, `${words}${range}`),
  );
}

/** @param {Limit} limit */
const rangeInWords = (limit) =>
  `From ${count(shown(limit, limit.least))} to ${count(shown(limit, limit.most))}, ${count(shown(limit, limit.usual))} by default.`;

function responsesInWords() {
  const rows = Object.values(RESPONSES).map(({ word, does }) => h("div", {}, h("dt", {}, word), h("dd", {}, does)));
  return h("details", {}, h("summary", {}, "What each of these does"), h("dl", { class: "responses" }, rows));
}

/** An amount as the operator counts it. @param {Limit} limit @param {number} amount */
const shown = ({ unit }, amount) => (unit === "%" ? Number((100 * amount).toPrecision(12)) : amount);

/** @param {Limit} limit @param {number} amount */
const amountInWords = (limit, amount) => `${count(shown(limit, amount))}\u00a0${limit.unit}`;

/** What a field holds, as the server counts; as it was where nothing else was typed. @param {Limit} limit @param {HTMLInputElement} input @param {string | number} before */
function amountOf(limit, input, before) {
  const typed = input.valueAsNumber;
  if (!Number.isFinite(typed) || typed === shown(limit, Number(before))) return before;
  return limit.unit === "%" ? Number((typed / 100).toPrecision(12)) : typed;
}
