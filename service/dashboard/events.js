/** All events of the server: filtered, live, and further back on request. */

import { say } from "./announce.js";
import { Problem, get } from "./api.js";
import { button, fill, h, setText } from "./dom.js";
import { KINDS, eventItem, kindOf, wordsOf } from "./eventlist.js";
import { plural, sentence } from "./format.js";
import { oncePerFrame } from "./frames.js";
import { live } from "./live.js";
import { onChange, sawEvent, store } from "./store.js";

/** @typedef {import("./eventlist.js").Event} Event */

const PAGE = 300;
const asked = { stream: "", kind: "" };

/** @param {HTMLElement} main @returns {() => void} */
export function eventsPage(main) {
  /** @type {Map<number, Event>} */
  const events = new Map();
  let oldest = 1;
  let newest = -1;
  let left = false;
  let loaded = false;

  const search = /** @type {HTMLInputElement} */ (
    h("input", {
      type: "search",
      id: "event-stream",
      placeholder: "Filter by stream…",
      autocomplete: "off",
      spellcheck: "false",
    })
  );
  const kind = /** @type {HTMLSelectElement} */ (
    h("select", { id: "event-kind" }, h("option", { value: "" }, "All kinds"))
  );
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
    h(
      "p",
      { class: "lead" },
      "Actions of the server and of operators on streams, newest first. New events appear by themselves.",
    ),
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
      .filter(
        (event) => (!word || event.stream?.toLowerCase().includes(word)) && (!asked.kind || event.kind === asked.kind),
      )
      .sort((a, b) => b.id - a.id);
    addKinds(kind, events.values());
    keepInOrder(list, kept);
    older.hidden = oldest <= 1;
    setText(
      shown,
      !loaded
        ? "Loading…"
        : kept.length
          ? plural(kept.length, "event")
          : events.size
            ? "No event matches the filter."
            : "There are no events yet. Events appear here when streams begin, drift or are changed.",
    );
  });

  /** @param {any[]} items */
  function add(items) {
    for (const event of items) {
      events.set(event.id, event);
      newest = Math.max(newest, event.id);
      sawEvent(event.id);
    }
    show();
  }

  /** Load what is newer than all that is known; at first, the newest events. */
  async function catchUp() {
    await attempt(async () => {
      if (newest < 0) {
        newest = Math.max(0, (await newestEvent()) - PAGE);
        oldest = newest + 1;
      }
      for (let more = true; more && !left;) {
        const { items, next } = await get(`v1/events?since=${newest}&limit=${PAGE}`);
        loaded = true;
        add(items);
        more = next !== null && items.length > 0;
      }
    });
  }

  async function loadBack() {
    await attempt(async () => {
      const since = Math.max(0, oldest - 1 - PAGE);
      const { items } = await get(`v1/events?since=${since}&limit=${oldest - 1 - since}`);
      oldest = since + 1;
      add(items);
    });
  }

  /** @param {() => Promise<void>} work */
  async function attempt(work) {
    try {
      await work();
      problem.hidden = true;
    } catch (error) {
      problem.hidden = false;
      setText(problem, sentence(error instanceof Problem ? error.message : String(error)));
    }
  }

  const stop = live({
    name: "events",
    path: () => "v1/events/live",
    event: "event",
    onOpen: catchUp,
    onData(event) {
      // Before the first load is done, an event that is ahead of it would hide those between.
      if (newest < 0) return;
      add([event]);
      say(`${kindOf(event.kind).word}${event.stream ? `, ${event.stream}` : ""}: ${wordsOf(event)}`);
    },
  });
  return () => {
    left = true;
    stop();
  };
}

/** @returns {Promise<number>} the newest event, as soon as the server has told it */
function newestEvent() {
  if (store.loaded) return Promise.resolve(store.event ?? 0);
  return new Promise((resolve) => {
    const stop = onChange(() => {
      if (!store.loaded) return;
      stop();
      resolve(store.event ?? 0);
    });
  });
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
