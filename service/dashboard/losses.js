/** Describe what an action would lose: pure functions of a stream, its events and its snapshots. */

import { clock, count, plural } from "./format.js";

/** @typedef {import("./change.js").View} View */
/** @typedef {import("./snapshots.js").Snapshot} Snapshot */
/** @typedef {import("./eventlist.js").Event} Event */

/**
 * Return since when a stream has learned what it knows: its last reset or restore, else its beginning.
 *
 * @param {View} view
 * @param {Event[]} events newest first
 */
export function learnedSince(view, events) {
  const last = events.find(
    ({ kind, action, time }) =>
      time >= view.created && (kind === "reset" || kind === "restored" || (kind === "guard" && action === "reset")),
  );
  return last ? last.time : view.created;
}

/**
 * @param {string} act such as "Reset"
 * @param {View} view
 * @param {Event[]} events
 */
export function forgets(act, view, events) {
  if (view.steps === 0) return `${act} forgets nothing: ${view.id} has not learned anything yet.`;
  return `${act} forgets ${plural(view.steps, "learning step")} of ${view.id} since ${clock(learnedSince(view, events))}.`;
}

/**
 * As `forgets`, of going back to a snapshot: only what was learned since, where the stream has gone straight on from it.
 *
 * @param {View} view
 * @param {Event[]} events
 * @param {Snapshot} snapshot
 */
export function forgetsByRestore(view, events, snapshot) {
  const { created, generation, steps } = snapshot;
  const guarded = events.some(({ kind, time }) => kind === "guard" && time >= created);
  const straight = !guarded && created >= learnedSince(view, events) && generation <= view.generation;
  const lost = view.steps - steps;
  if (!straight || lost < 0) return forgets("Restore", view, events);
  if (lost === 0) return `Restore forgets nothing: ${view.id} has not learned anything since this snapshot.`;
  return `Restore forgets ${plural(lost, "learning step")} of ${view.id} since ${clock(created)}.`;
}

/** @param {View} view @param {Snapshot[]} snapshots newest first */
export function lastSnapshot(view, snapshots) {
  if (!snapshots.length) return "There is no snapshot to restore.";
  const [{ name, generation }] = snapshots;
  const behind = view.generation - generation;
  const when =
    behind === 0
      ? "at this generation"
      : behind > 0
        ? `${plural(behind, "generation")} ago`
        : `at generation ${count(generation)}`;
  return `Last snapshot: ${name}, ${when}.`;
}
