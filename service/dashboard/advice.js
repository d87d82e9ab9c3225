/** Advice for a stream in trouble: the reason, its meaning, and buttons for what can be done. */

import { button, h, refill } from "./dom.js";
import { sentence } from "./format.js";
import { icon } from "./icons.js";

/**
 * @param {HTMLElement} element
 * @param {{badge: string, reason: string, mode: string, hasSnapshot: boolean}} known
 * @param {{freeze: () => void, reset: () => void, restore: () => void, take: () => void, adapt: () => void}} acts
 */
export function showAdvice(element, known, acts) {
  const state = JSON.stringify(known);
  if (element.dataset.shown === state) return;
  element.dataset.shown = state;
  const advice = adviceFor(known, acts);
  element.hidden = advice === null;
  if (advice === null) return refill(element);
  element.dataset.tone = advice.tone;
  refill(
    element,
    h("h2", {}, icon(known.badge), advice.title),
    known.reason ? h("p", { class: "advice-reason" }, sentence(known.reason)) : null,
    h("p", {}, advice.words),
    h("div", { class: "buttons" }, advice.buttons),
  );
}

/** @param {Parameters<typeof showAdvice>[1]} known @param {Parameters<typeof showAdvice>[2]} acts */
function adviceFor({ badge, mode, hasSnapshot }, { freeze, reset, restore, take, adapt }) {
  const freezing = mode === "adapt" ? button("Freeze", freeze, { class: "button primary" }) : null;
  const restoring = hasSnapshot ? button("Restore a snapshot", restore) : null;
  if (badge === "held") {
    return {
      tone: "bad",
      title: "This stream is held back",
      words:
        "The server's process ended more than once during this stream's learning steps. The server's log or the kernel's log may show the cause: a crash in a native library, or too little memory. Remove the cause, or choose another adapter, before you let the stream adapt again.",
      buttons: [button("Let it adapt", adapt), restoring, button("Reset", reset)],
    };
  }
  if (badge === "suspected") {
    return {
      tone: "bad",
      title: "This stream seems to answer worse than its source model",
      words: `No guard acts on it, or a rollback did not help. Look at its images first: many adapters fail on a camera that is stuck or shows only one thing. Then freeze the stream${hasSnapshot ? ", restore an earlier snapshot," : ""} or reset it, and choose an adapter for such images.`,
      buttons: [freezing, restoring, button("Reset", reset)],
    };
  }
  if (badge === "guarded") {
    return {
      tone: "bad",
      title: "A guard acted on this stream",
      words: `The guard has already acted, for the reason above. If answers stay poor, freeze the stream to stop its learning, ${hasSnapshot ? "restore the last good snapshot, or reset the stream" : "or reset it"}.`,
      buttons: [freezing, restoring, button("Reset", reset)],
    };
  }
  if (badge === "drifting") {
    return {
      tone: "warn",
      title: "The data has changed",
      words:
        "Adapters are made to follow such changes, and often nothing needs to be done. Watch agreement and source gap. If they get worse, freeze the stream or restore a snapshot.",
      buttons: [button("Take a snapshot", take), freezing, restoring],
    };
  }
  if (mode === "frozen" || mode === "shadow") {
    return {
      tone: "",
      title: mode === "frozen" ? "This stream is frozen" : "This stream is in shadow mode",
      words:
        mode === "frozen"
          ? "Its state stays as it is until you let it adapt."
          : "The report below compares its answers with the source model's. Let it adapt to use what it has learned.",
      buttons: [button("Let it adapt", adapt)],
    };
  }
  return null;
}
