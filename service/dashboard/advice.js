/** What a stream in trouble asks of the operator: why, what it means, what to press. */

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
        "The server's process ended more than once while this stream learned. The server's log, or the kernel's, may say why: a crash in a native library, or too little memory. Let it adapt once the cause is gone, or choose another adapter first.",
      buttons: [button("Let it adapt", adapt), restoring, button("Reset", reset)],
    };
  }
  if (badge === "suspected") {
    return {
      tone: "bad",
      title: "This stream seems to answer worse than its source model",
      words: `No guard acts on it, or going back has not helped. Look at its images first: a camera that is stuck, or shows one thing alone, leads many adapters astray. Then freeze the stream${hasSnapshot ? ", restore a snapshot from before," : ""} or reset it, and choose an adapter that suits such images.`,
      buttons: [freezing, restoring, button("Reset", reset)],
    };
  }
  if (badge === "guarded") {
    return {
      tone: "bad",
      title: "A guard acted on this stream",
      words: `It has already done what is said above. If answers stay poor: freeze the stream, so that it learns nothing more, ${hasSnapshot ? "restore the last good snapshot, or reset it" : "or reset it"}.`,
      buttons: [freezing, restoring, button("Reset", reset)],
    };
  }
  if (badge === "drifting") {
    return {
      tone: "warn",
      title: "The data has changed",
      words:
        "Following it is what adapting is for, and often nothing needs to be done. Watch agreement and source gap; if they get worse, freeze the stream or go back.",
      buttons: [button("Take a snapshot", take), freezing, restoring],
    };
  }
  if (mode === "frozen" || mode === "shadow") {
    return {
      tone: "",
      title: mode === "frozen" ? "This stream is frozen" : "This stream is in shadow",
      words:
        mode === "frozen"
          ? "It answers by what it has learned so far, and learns nothing more."
          : "Its answers are the source model's; it learns beside them.",
      buttons: [button("Let it adapt", adapt)],
    };
  }
  return null;
}
