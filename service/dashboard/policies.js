/** The fields of a guard's policy in words: what each is for, its range, its default, what a change of it costs. */

/** @type {Record<string, {word: string, does: string}>} in order of how much is lost */
export const RESPONSES = {
  off: { word: "off", does: "It is told as an event, and nothing else is done." },
  skip: { word: "skip", does: "The step is thrown away; what was learned before stays." },
  roll_back: {
    word: "roll back",
    does: "The stream goes back to its newest good state, or to the source model if there is none.",
  },
  reset: { word: "reset", does: "The stream starts again from the source model: all that it has learned is lost." },
  freeze: {
    word: "freeze",
    does: "The stream goes back as by roll back, and learns nothing more until you let it adapt.",
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
    off: "A stream that collapses goes on answering one class, whatever it sees, until somebody resets it.",
  },
  {
    name: "harm",
    title: "Harm",
    words: "Inputs look like the source's own, yet answers differ so often from its own that they must be worse.",
    usual: "roll_back",
    off: "A stream that has become worse than the source model goes on answering so.",
  },
  {
    name: "non_finite",
    title: "Not finite",
    words: "An answer or a state holds what is no finite number. Such a state is never kept.",
    usual: "skip",
  },
  {
    name: "distance",
    title: "Distance",
    words: "The learned parameters are further from the source's than allowed. To skip is to hold them within that.",
    usual: "off",
    off: "How far the parameters have moved is only shown. Slow poison may lead them anywhere, step by step.",
  },
  {
    name: "forgetting",
    title: "Forgetting",
    words: "The probe set is answered worse than by the source model, by more than the budget.",
    usual: "off",
    off: "What is lost on the source's own images is only shown. A stream that follows other data loses some, rightly.",
  },
  {
    name: "drift_ended",
    title: "Drift ended",
    words: "The inputs' statistics come back towards the source's.",
    usual: "off",
    off: "Back on the source's own data, the stream finds its way by learning alone.",
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
    words: "How far the learned parameters may be from the source's, as a share of the length of these.",
    usual: 0.5,
    most: 10,
  },
  {
    ...SHARE,
    name: "takeover",
    title: "Takeover",
    words: "By how much a class's share of the answers exceeds the source model's, to be a collapse.",
    usual: 0.4,
  },
  {
    ...SHARE,
    name: "margin",
    title: "Margin",
    words: "How much less often than expected a stream agrees with the source model, at least, to be harm.",
    usual: 0.05,
  },
  {
    name: "pause",
    title: "Pause",
    words: "Requests it does not learn from after going back; twice as many each time it does so again soon.",
    usual: 32,
    unit: "requests",
    least: 0,
    most: 1e6,
    zero: "It learns on at once from the data that led it astray.",
  },
  {
    name: "every",
    title: "Reset every",
    words: "Learning steps after which the stream is reset, again and again; 0 for never.",
    usual: 0,
    unit: "steps",
    least: 0,
    most: 1e9,
    zero: "It learns on for as long as no rule holds.",
  },
];
