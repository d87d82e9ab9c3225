/** One stream's data from the server: loaded, followed live, and loaded again after a change. */

import { Problem, get, streamPath } from "./api.js";
import { loadSnapshots } from "./keeping.js";
import { live } from "./live.js";
import { History } from "./series.js";

/** @typedef {import("./change.js").View} View */

const LOOK_EVERY = 2000;
const TRY_AGAIN = 5000;

export class Feed {
  /**
   * @param {string} id
   * @param {() => void} changed called after every change
   */
  constructor(id, changed) {
    this.id = id;
    this.changed = changed;
    this.history = new History();
    /** @type {View | null} */
    this.view = null;
    /** @type {import("./snapshots.js").Snapshot[] | null} newest first */
    this.snapshots = null;
    this.snapshotProblem = "";
    /** Why the stream cannot be shown, or "". */
    this.problem = "";
    /** Whether there is no such stream, or no more. */
    this.gone = false;
    /** Whether the server cannot load the stream, because its state is damaged or its model has changed. */
    this.unfit = false;
    this.stopped = false;
    this.looked = 0;
    this.looksLater = false;
    this.stopLive = () => {};
  }

  /** Load the stream and its past, then follow it. */
  async begin() {
    try {
      const [view, past] = await Promise.all([get(streamPath(this.id)), get(`${streamPath(this.id)}/history`)]);
      if (this.stopped || this.view) return;
      this.view = view;
      this.problem = "";
      this.unfit = false;
      this.history.merge(past);
    } catch (error) {
      this.#failed(error);
      if (!this.gone) setTimeout(() => this.stopped || this.view || this.begin(), TRY_AGAIN);
      return;
    }
    this.changed();
    this.#loadSnapshots();
    this.stopLive = live({
      name: "stream",
      path: () => `${streamPath(this.id)}/history/live?since=${this.history.next}`,
      event: "points",
      onData: (answer) => this.#merge(answer),
      onGone: (words) => this.#failed(new Problem(404, words)),
    });
  }

  /**
   * Load another span of the past.
   *
   * @param {number | null} seconds null for all there is
   */
  async span(seconds) {
    try {
      const query = seconds === null ? "" : `?seconds=${seconds}`;
      this.history.replace(await get(`${streamPath(this.id)}/history${query}`));
      this.changed();
    } catch (error) {
      this.#failed(error);
    }
  }

  /** Look again, though not too often, if the overview tells otherwise. @param {import("./store.js").Row} row */
  compare({ generation, mode, adapter }) {
    const { view } = this;
    if (!view || this.gone) return;
    if (generation !== view.generation || mode !== view.mode || adapter !== view.adapter) this.#lookSometimes();
  }

  /**
   * Look again after an action; a stream that answers nothing tells of nothing by itself.
   *
   * @param {View | null} [view] the stream as the action left it
   */
  lookAgain(view) {
    this.view = view ?? this.view;
    this.changed();
    this.#loadView();
    this.#loadSnapshots();
    this.#loadEvents();
  }

  stop() {
    this.stopped = true;
    this.stopLive();
  }

  /** @param {any} answer */
  #merge(answer) {
    this.history.merge(answer);
    this.changed();
    this.#lookSometimes();
    if (answer.events?.some((/** @type {{kind: string}} */ { kind }) => kind === "snapshot")) this.#loadSnapshots();
  }

  /** Look now, or once the last look is long enough ago: what comes in between must not be missed. */
  #lookSometimes() {
    if (this.looksLater) return;
    const wait = Math.max(0, this.looked + LOOK_EVERY - Date.now());
    this.looksLater = true;
    setTimeout(() => {
      this.looksLater = false;
      this.looked = Date.now();
      if (!this.stopped && !this.gone) this.#loadView();
    }, wait);
  }

  async #loadView() {
    try {
      this.view = await get(streamPath(this.id));
      this.changed();
    } catch (error) {
      // Only its end matters here: the connection tells of itself.
      if (error instanceof Problem && error.status === 404) this.#failed(error);
    }
  }

  async #loadSnapshots() {
    try {
      this.snapshots = await loadSnapshots(this.id);
      this.snapshotProblem = "";
    } catch (error) {
      this.snapshotProblem = error instanceof Error ? error.message : String(error);
    }
    this.changed();
  }

  async #loadEvents() {
    const newest = Math.max(0, ...this.history.events.keys());
    const path = `v1/events?stream=${encodeURIComponent(this.id)}&since=${newest}&limit=100`;
    const { items } = await get(path).catch(() => ({ items: [] }));
    for (const event of items) this.history.events.set(event.id, event);
    this.changed();
  }

  /** @param {unknown} error */
  #failed(error) {
    if (this.stopped) return;
    this.gone = error instanceof Problem && error.status === 404;
    this.unfit = error instanceof Problem && error.status === 422;
    if (this.gone) this.stopLive();
    this.problem = error instanceof Error ? error.message : String(error);
    this.changed();
  }
}
