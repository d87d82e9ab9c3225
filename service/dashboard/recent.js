/** The newest events of a stream, all of them on request. */

import { button, fill, h } from "./dom.js";
import { eventItem } from "./eventlist.js";

const SHOWN = 12;

/** @returns {{element: HTMLElement, show: (events: import("./eventlist.js").Event[]) => void}} */
export function recentEvents() {
  let all = false;
  /** @type {import("./eventlist.js").Event[]} */
  let told = [];
  const list = h("ol", { class: "events" });
  const more = button("Show all events", () => {
    all = true;
    show(told);
  });
  const title = h("h2", { id: "events-title" }, "Events");
  const element = h("section", { class: "card", "aria-labelledby": "events-title" }, title, list, more);

  /** @param {import("./eventlist.js").Event[]} events newest first */
  function show(events) {
    told = events;
    const shown = all ? events : events.slice(0, SHOWN);
    more.hidden = shown.length === events.length;
    const state = `of ${shown.map(({ id }) => id).join()}`;
    if (list.dataset.shown === state) return;
    list.dataset.shown = state;
    const nothing = h("li", { class: "hint" }, "This stream has no events yet.");
    fill(list, shown.length ? shown.map((event) => eventItem(event, false)) : nothing);
  }

  return { element, show };
}
