/** All streams as the server last told them; the one copy that every page reads. */

import { Problem, get } from "./api.js";
import { oncePerFrame } from "./frames.js";
import { live } from "./live.js";

/**
 * @typedef {object} Row
 * @property {string} id
 * @property {string} model
 * @property {string} adapter
 * @property {"adapt" | "frozen" | "shadow"} mode
 * @property {string} badge
 * @property {string} reason
 * @property {number} generation
 * @property {number} steps
 * @property {number} requests
 * @property {number} images
 * @property {number} state_bytes
 * @property {number} created
 * @property {number} last_used
 * @property {number | null} entropy
 * @property {number | null} drift
 * @property {number | null} agreement
 * @property {number | null} source_gap
 * @property {number[]} spark
 */

/** @typedef {{name: string, classes: string[], adapter: string}} Model */

const SECOND_LOOK = 3000;

export const store = {
  /** @type {Map<string, Row>} */
  rows: new Map(),
  /** @type {Model[]} */
  models: [],
  /** @type {number | null} the newest event */
  event: null,
  loaded: false,
  /** Why the streams could not be loaded, or "". */
  problem: "",
  /** Changes with the set of streams, so that readers can tell it from mere new figures. */
  membership: 0,
};

/** @type {Set<() => void>} */
const readers = new Set();
const tell = oncePerFrame(() => readers.forEach((reader) => reader()));
/** @type {{streams: Row[], gone: string[]}[] | null} updates that arrive while the whole is being loaded */
let held = null;
let loading = 0;

/**
 * Call a reader after changes, at most once per frame, until the returned function is called.
 *
 * @param {() => void} reader
 * @returns {() => void}
 */
export function onChange(reader) {
  readers.add(reader);
  return () => readers.delete(reader);
}

/** Note the newest event that any page has seen. @param {number} id */
export function sawEvent(id) {
  if (store.event === null || id > store.event) store.event = id;
}

/** Load all streams and follow them; every new connection loads all, for nothing may be missed. */
export function followStreams() {
  let first = true;
  live({
    name: "streams",
    path: () => "v1/overview/live",
    event: "streams",
    onOpen() {
      // The first load is under way already, and may be older than the connection: look once more, without haste.
      if (first && loading) setTimeout(load, SECOND_LOOK);
      else load();
      first = false;
    },
    onData: (update) => (held ? held.push(update) : apply(update)),
    whileHidden: true,
  });
  load();
}

/** Load all streams anew. */
export async function load() {
  held ??= [];
  loading += 1;
  try {
    const { streams, models, event } = await get("v1/overview");
    store.rows = new Map(streams.map((/** @type {Row} */ row) => [row.id, row]));
    if (event !== null) sawEvent(event);
    Object.assign(store, { models, loaded: true, problem: "", membership: store.membership + 1 });
  } catch (error) {
    store.problem = error instanceof Problem ? error.message : String(error);
  }
  loading -= 1;
  if (loading === 0) {
    const updates = held;
    held = null;
    updates.forEach(apply);
  }
  tell();
}

/** @param {{streams: Row[], gone: string[]}} update */
function apply({ streams, gone }) {
  const before = store.rows.size;
  for (const id of gone) store.rows.delete(id);
  const left = store.rows.size;
  for (const row of streams) store.rows.set(row.id, row);
  if (before !== left || store.rows.size !== left) store.membership += 1;
  tell();
}
