/** The server's newest event, updated while the overview is open. */

import { get } from "./api.js";
import { fill, h } from "./dom.js";
import { kindOf, wordsOf } from "./eventlist.js";
import { agoElement } from "./format.js";
import { live } from "./live.js";
import { sawEvent } from "./store.js";

/** @returns {{element: HTMLElement, load: (newest: number | null) => Promise<void>, stop: () => void}} */
export function lastEvent() {
  const element = h("a", { href: "#/events" }, "none yet");
  let newest = 0;

  /** @param {import("./eventlist.js").Event} event */
  function show(event) {
    if (event.id < newest) return;
    newest = event.id;
    sawEvent(event.id);
    element.title = `${event.stream ? `${event.stream}: ` : ""}${wordsOf(event)}`;
    fill(element, `${kindOf(event.kind).word}, `, agoElement(event.time));
  }

  /** Look an event up, unless a newer one is shown. @param {number | null} id */
  async function load(id) {
    if (id === null || id <= newest) return;
    newest = id;
    const { items } = await get(`v1/events?since=${id - 1}&limit=1`).catch(() => ({ items: [] }));
    if (items.length) show(items[0]);
  }

  const stop = live({ name: "last event", path: () => "v1/events/live", event: "event", onData: show });
  return { element, load, stop };
}
