/** Change a stream unless another operator changed it since the operator saw it; its own learning does not count. */

import { Problem, call, get, streamPath } from "./api.js";
import { Overtaken } from "./dialog.js";
import { count } from "./format.js";

const TRIES = 4;

/** @typedef {import("./shadow.js").Shadow} Shadow */

/**
 * @typedef {object} View
 * @property {string} id
 * @property {string} model
 * @property {string} adapter
 * @property {Record<string, any>} options
 * @property {"adapt" | "frozen" | "shadow"} mode
 * @property {Record<string, any> | null} [guard]
 * @property {number} adapt_batch_size
 * @property {number} generation
 * @property {number} durable_generation
 * @property {number} steps
 * @property {number} waiting_images
 * @property {number} state_bytes
 * @property {number} created
 * @property {number} last_used
 * @property {Record<string, number>} signals
 * @property {string} choice
 * @property {Shadow | null} [shadow]
 */

/**
 * Make a call with If-Match; where the stream has merely learned on meanwhile, look again and repeat it.
 *
 * @param {View} seen the stream as the operator was told of it
 * @param {{method: "PATCH" | "POST" | "DELETE", path?: string, body?: object}} wanted
 * @param {boolean} anyway without If-Match, because the operator insists
 * @returns {Promise<any>}
 * @throws {Overtaken} if the stream is another one than the operator saw, or cannot be caught up with
 */
export async function changeStream(seen, { method, path = "", body }, anyway) {
  const address = streamPath(seen.id) + path;
  if (anyway) return await call(method, address, { body });
  let latest = seen;
  for (let left = TRIES; left > 0; left -= 1) {
    try {
      return await call(method, address, { body, generation: latest.generation });
    } catch (error) {
      if (!(error instanceof Problem) || error.status !== 412) throw error;
    }
    latest = await get(streamPath(seen.id));
    const difference = differs(seen, latest);
    if (difference) throw new Overtaken(`${difference} Nothing was changed. Look again before you go on.`);
  }
  throw new Overtaken(
    `${seen.id} learns faster than this page can follow, and is now at generation ${count(latest.generation)}. ` +
      "Nothing was changed.",
  );
}

/** Say what happened to a stream besides learning, or "". @param {View} seen @param {View} latest */
function differs(seen, latest) {
  if (latest.created !== seen.created) return `${seen.id} was ended, and a new stream with this name began, while you were reading.`;
  if (latest.adapter !== seen.adapter) return `The adapter was changed to ${latest.adapter} while you were reading.`;
  if (latest.mode !== seen.mode) return `The mode was changed to ${latest.mode} while you were reading.`;
  if (JSON.stringify(latest.guard) !== JSON.stringify(seen.guard)) {
    return "The guard was changed while you were reading.";
  }
  if (latest.steps < seen.steps) {
    return `The stream went back to ${count(latest.steps)} learning steps while you were reading: it was reset or restored.`;
  }
  return "";
}
