/** The fields of a guard's policy: meaning, range, default, and the cost of a change. */

/** @type {Record<string, {word: string, does: string}>} in order of how much is lost */
export const RESPONSES = {
  off: { word: "off", does: "The server records an event, and does nothing else." },
  skip: { word: "skip", does: "The step is discarded; the state before it stays." },
  roll_back: {
    word: "roll back",
    does: "The stream goes back to its newest good state, or to the source model if there is none.",
  },
  reset: { word: "reset", does: "The stream starts again from the source model; everything that it learned is lost." },
  freeze: {
    word: "freeze",
    does: "The stream rolls back, and does not learn until you let it adapt.",
  },
};

/**
 * @typedef {object} Rule
 * @property {string} name
 * @property {string} title
 * @property {string} words when it holds
 * @property {string} usual the response by default
 * @property {string} [off] what off costs; a rule without it cannot be switched off
 */

/** @type {Rule[]} */
export const RULES = [
  {
    name: "collapse",
    title: "Collapse",
    words: "One class takes over the answers, and the source model sees others in the same images.",
    usual: "roll_back",
    off: "A collapsed stream keeps answering one class for any input, until an operator resets it.",
  },
  {
    name: "harm",
    title: "Harm",
    words: "Inputs look like source data, but answers differ so often from the source model's that they must be worse.",
    usual: "roll_back",
    off: "A stream that has become worse than the source model keeps answering.",
  },
  {
    name: "non_finite",
    title: "Not finite",
    words: "An answer or a state holds values that are not finite. Such a state is never kept.",
    usual: "skip",
  },
  {
    name: "distance",
    title: "Distance",
    words: "The learned parameters are further from the source's than the allowed distance. Skip keeps them within it.",
    usual: "off",
    off: "The distance is only shown. An attacker can move the parameters anywhere in many small steps.",
  },
  {
    name: "forgetting",
    title: "Forgetting",
    words: "Accuracy on the probe set is below the source model's by more than the budget.",
    usual: "off",
    off: "The loss on source images is only shown. A stream that fits other data rightly loses some accuracy on them.",
  },
  {
    name: "drift_ended",
    title: "Drift ended",
    words: "The inputs' statistics return towards the source's.",
    usual: "off",
    off: "If source data returns, the stream recovers only by learning.",
  },
];

/**
 * @typedef {object} Limit
 * @property {string} name
 * @property {string} title
 * @property {string} words
 * @property {number} usual the default, as the server counts
 * @property {string} unit as the operator counts; a share is told in percent
 * @property {number} least
 * @property {number} most
 * @property {string} [zero] what nought means
 */

const SHARE = { unit: "%", least: 0.0001, most: 1 };

/** @type {Limit[]} */
export const LIMITS = [
  {
    ...SHARE,
    name: "budget",
    title: "Budget",
    words: "Accuracy on the probe set that a stream may lose against the source model.",
    usual: 0.1,
  },
  {
    ...SHARE,
    name: "max_distance",
    title: "Allowed distance",
    words: "Largest distance of the learned parameters from the source's, relative to the norm of the source's.",
    usual: 0.5,
    most: 10,
  },
  {
    ...SHARE,
    name: "takeover",
    title: "Takeover",
    words: "Collapse is an excess of more than this: a class's share of the answers minus its share of the source model's.",
    usual: 0.4,
  },
  {
    ...SHARE,
    name: "margin",
    title: "Margin",
    words: "Harm is a shortfall of at least this: the expected agreement with the source model minus the measured one.",
    usual: 0.05,
  },
  {
    name: "pause",
    title: "Pause",
    words: "Requests without learning after the guard acted. The number doubles with each recent repetition.",
    usual: 32,
    unit: "requests",
    least: 0,
    most: 1e6,
    zero: "The stream learns at once from the data that caused the action.",
  },
  {
    name: "every",
    title: "Reset every",
    words: "Learning steps between periodic resets; 0 for never.",
    usual: 0,
    unit: "steps",
    least: 0,
    most: 1e9,
    zero: "The stream is never reset periodically.",
  },
];
