/** The history of a stream as this page holds it: what was loaded, with what came since. */

const MOST_POINTS = 6000;
const MOST_LAYER_ROWS = 1200;
const MOST_MISFITS = 16;

/** @typedef {{names: string[], times: number[], values: number[][], divergences: number[][]}} Layers by Wasserstein, by symmetric KL */
/** @typedef {{names: string[], shares: number[], prior: number[]}} Classes */
/** @typedef {{time: number, label: string, entropy: number, image: string}} Misfit */
/** @typedef {{mmd: number, p_value: number, unlike: number}} Compared */
/** @typedef {{accuracy: number, forgetting: number, source_gap: number, generation: number, time: number, compared?: Compared | null}} Probe */

export class History {
  constructor() {
    /** @type {Map<string, (number | null)[]>} values by column */
    this.columns = new Map();
    /** @type {Layers} */
    this.layers = { names: [], times: [], values: [], divergences: [] };
    /** @type {Classes | null} */
    this.classes = null;
    /** @type {number[]} share of the images by entropy, in equal steps */
    this.entropies = [];
    /** @type {Probe | null} */
    this.probe = null;
    /** @type {Map<number, import("./eventlist.js").Event>} */
    this.events = new Map();
    /** @type {Misfit[]} */
    this.misfits = [];
    this.next = 0;
    /** @type {number | null} when the oldest figure that the server still has is of */
    this.oldest = null;
  }

  /** Take in an answer whose figures stand in the place of all before. @param {any} answer */
  replace(answer) {
    this.columns.clear();
    this.merge(answer);
  }

  /** @param {string} name @returns {(number | null)[]} */
  column(name) {
    return this.columns.get(name) ?? [];
  }

  /** The newest value that is known. @param {string} name @returns {number | null} */
  latest(name) {
    return this.column(name).findLast((value) => value !== null) ?? null;
  }

  /** Take in an answer of the server. @param {any} answer */
  merge(answer) {
    // A server that began anew counts from one again, and what this page holds is all that is left of before.
    if (answer.next < this.next) this.columns.clear();
    const last = this.column("cursor").at(-1) ?? -1;
    const at = answer.columns.indexOf("cursor");
    // A connection that resumes may tell of a point twice.
    const fresh = answer.points.filter((/** @type {number[]} */ point) => point[at] > last);
    answer.columns.forEach((/** @type {string} */ name, /** @type {number} */ i) => {
      const values = this.columns.get(name) ?? [];
      for (const point of fresh) values.push(point[i]);
      if (values.length > MOST_POINTS) values.splice(0, values.length - MOST_POINTS);
      this.columns.set(name, values);
    });
    this.#mergeLayers(answer.layers);
    this.classes = answer.classes ?? this.classes;
    this.entropies = answer.entropies ?? this.entropies;
    this.probe = answer.probe ?? this.probe;
    for (const event of answer.events ?? []) this.events.set(event.id, event);
    if (answer.misfits?.length) this.misfits = newestOf([...this.misfits, ...answer.misfits]);
    this.next = answer.next ?? this.next;
    this.oldest = answer.oldest ?? this.oldest;
  }

  /** Events, newest first. */
  eventList() {
    return [...this.events.values()].sort((a, b) => b.time - a.time || b.id - a.id);
  }

  /** @param {(Omit<Layers, "divergences"> & {divergences?: number[][]}) | undefined} layers */
  #mergeLayers(layers) {
    if (!layers?.times?.length) return;
    // Another adapter may measure other layers: rows of the two cannot stand in one picture.
    if (layers.names.join() !== this.layers.names.join()) {
      this.layers = { names: layers.names, times: [], values: [], divergences: [] };
    }
    const last = this.layers.times.at(-1) ?? -Infinity;
    layers.times.forEach((time, i) => {
      if (time <= last) return;
      this.layers.times.push(time);
      this.layers.values.push(layers.values[i]);
      if (layers.divergences) this.layers.divergences.push(layers.divergences[i]);
    });
    const over = this.layers.times.length - MOST_LAYER_ROWS;
    if (over > 0) {
      this.layers.times.splice(0, over);
      this.layers.values.splice(0, over);
      this.layers.divergences.splice(0, over);
    }
  }
}

/** The newest first, each once. @param {Misfit[]} misfits */
function newestOf(misfits) {
  const byTime = new Map(misfits.map((misfit) => [misfit.time, misfit]));
  return [...byTime.values()].sort((a, b) => b.time - a.time).slice(0, MOST_MISFITS);
}
