/** Say a class by its name where the server tells its number. */

import { store } from "./store.js";

/**
 * @param {string} words such as "class 3 takes 45 % of the answers"
 * @param {string | null} model
 * @returns {string}
 */
export function withClassNames(words, model) {
  const classes = store.models.find(({ name }) => name === model)?.classes ?? [];
  return words.replace(/\bclass (\d+)\b/g, (said, number) => classes[Number(number)] ?? said);
}
