/** The totals above the table: made once, so that what is focused or selected in them stays. */

import { inTrouble } from "./badges.js";
import { h, setText } from "./dom.js";
import { agoElement, count, setAgo } from "./format.js";
import { lastEvent } from "./lastevent.js";
import { store } from "./store.js";

/** @returns {{element: HTMLElement, show: (counts: Map<string, number>) => void, stop: () => void}} */
export function totals() {
  const trouble = h("span", {});
  const drifting = h("small", {});
  const streams = h("span", {});
  const images = h("span", {});
  const request = agoElement(null);
  const event = lastEvent();
  const total = (/** @type {string} */ title, /** @type {HTMLElement[]} */ ...values) =>
    h("div", { class: "total" }, h("dt", {}, title), h("dd", {}, values));
  const first = total("In trouble", trouble, drifting);
  const element = h(
    "dl",
    { class: "totals" },
    first,
    total("Streams", streams),
    total("Images answered", images),
    total("Last request", request),
    total("Last event", event.element),
  );
  return {
    element,
    show(counts) {
      let answered = 0;
      let newest = 0;
      for (const row of store.rows.values()) {
        answered += row.images;
        newest = Math.max(newest, row.last_used);
      }
      const troubled = inTrouble(counts);
      first.dataset.tone = troubled ? "bad" : "good";
      setText(trouble, troubled ? count(troubled) : "None");
      setText(drifting, `${count(counts.get("drifting") ?? 0)} drifting`);
      setText(streams, count(store.rows.size));
      setText(images, count(answered));
      setAgo(request, newest || null);
      event.load(store.event);
    },
    stop: event.stop,
  };
}
