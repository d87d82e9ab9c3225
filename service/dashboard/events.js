/** All events of the server: filtered, live, and further back on request. */

import { say } from "./announce.js";
import { Problem, get } from "./api.js";
import { button, fill, h, setText } from "./dom.js";
import { KINDS, eventItem, kindOf } from "./eventlist.js";
import { plural } from "./format.js";
import { oncePerFrame } from "./frames.js";
import { live } from "./live.js";

/** @typedef {import("./eventlist.js").Event} Event */

const PAGE = 300;
const asked = { stream: "", kind: "" };

/** @param {HTMLElement} main @returns {() => void} */
export function eventsPage(main) {
  /** @type {Map<number, Event>} */
  const events = new Map();
  let oldest = Infinity;
  let left = false;
  let loaded = false;

  const search = /** @type {HTMLInputElement} */ (
    h("input", { type: "search", id: "event-stream", placeholder: "Filter by stream…", autocomplete: "off", spellcheck: "false" })
  );
  const kind = /** @type {HTMLSelectElement} */ (h("select", { id: "event-kind" }, h("option", { value: "" }, "All kinds")));
  const shown = h("p", { class: "shown", role: "status" });
  const list = h("ol", { class: "events", "aria-label": "Events, newest first" });
  const problem = h("p", { class: "problem", role: "alert", hidden: true });
  const older = button("Show older events", () => loadBack(), { hidden: true });
  search.value = asked.stream;
  for (const [name, { word }] of Object.entries(KINDS)) kind.append(h("option", { value: name }, word));
  kind.value = asked.kind;
  search.addEventListener("input", () => ask({ stream: search.value.trim() }));
  kind.addEventListener("change", () => ask({ kind: kind.value }));
  fill(
    main,
    h("h1", { tabindex: -1 }, "Events"),
    h("p", { class: "lead" }, "What the server and its operators did to streams, newest first. New ones appear by themselves."),
    h(
      "div",
      { class: "toolbar" },
      h("div", { class: "search" }, h("label", { for: "event-stream", class: "sr-only" }, "Filter by stream"), search),
      h("div", { class: "pick" }, h("label", { for: "event-kind" }, "Kind"), kind),
    ),
    shown,
    problem,
    list,
    older,
  );

  /** @param {Partial<typeof asked>} change */
  function ask(change) {
    Object.assign(asked, change);
    show();
  }

  const show = oncePerFrame(() => {
    const word = asked.stream.toLowerCase();
    const kept = [...events.values()]
      .filter((event) => (!word || event.stream?.toLowerCase().includes(word)) && (!asked.kind || event.kind === asked.kind))
      .sort((a, b) => b.id - a.id);
    addKinds(kind, events.values());
    keepInOrder(list, kept);
    older.hidden = oldest <= 1;
    setText(shown, !loaded ? "Loading…" : kept.length ? plural(kept.length, "event") : events.size ? "No event fits the filter." : "Nothing has happened yet. Streams that begin, drift, or are changed show up here.");
  });

  /** @param {any[]} items */
  function add(items) {
    for (const event of items) events.set(event.id, event);
    show();
  }

  /** Load the newest events, or those before the oldest. */
  async function loadBack() {
    try {
      if (oldest === Infinity) {
        const { event } = await get("v1/overview");
        oldest = (event ?? 0) + 1;
      }
      const since = Math.max(0, oldest - 1 - PAGE);
      const { items } = await get(`v1/events?since=${since}&limit=${PAGE}`);
      if (left) return;
      oldest = since + 1;
      loaded = true;
      problem.hidden = true;
      add(items);
    } catch (error) {
      if (left) return;
      problem.hidden = false;
      older.hidden = false;
      setText(problem, error instanceof Problem ? error.message : String(error));
    }
  }

  const stop = live({
    name: "events",
    path: () => "v1/events/live",
    event: "event",
    onOpen: () => !loaded && loadBack(),
    onData(event) {
      add([event]);
      say(`${kindOf(event.kind).word}${event.stream ? `, ${event.stream}` : ""}: ${event.reason}`);
    },
  });
  return () => {
    left = true;
    stop();
  };
}

/** Offer kinds that this page does not know by name. @param {HTMLSelectElement} select @param {Iterable<Event>} events */
function addKinds(select, events) {
  const offered = new Set([...select.options].map((option) => option.value));
  for (const { kind } of events) {
    if (offered.has(kind)) continue;
    offered.add(kind);
    select.append(h("option", { value: kind }, kind));
  }
}

/** Make the list show events in order, touching only what differs. @param {HTMLElement} list @param {Event[]} events */
function keepInOrder(list, events) {
  const drawn = new Map([...list.children].map((item) => [Number(/** @type {HTMLElement} */ (item).dataset.id), item]));
  const wanted = new Set(events.map(({ id }) => id));
  for (const [id, item] of drawn) if (!wanted.has(id)) item.remove();
  let place = list.firstElementChild;
  for (const event of events) {
    const item = drawn.get(event.id);
    if (item && item === place) place = place.nextElementSibling;
    else list.insertBefore(item ?? eventItem(event, true), place);
  }
}
