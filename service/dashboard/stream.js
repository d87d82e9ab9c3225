/** The page of one stream: what it is, how it does, and what can be done to it. */

import * as actions from "./actions.js";
import { showAdvice } from "./advice.js";
import { note } from "./announce.js";
import { Problem, get, streamPath } from "./api.js";
import { badge } from "./badges.js";
import { Charts } from "./charts.js";
import { ClassShares } from "./classes.js";
import { button, fill, h, setText } from "./dom.js";
import { eventItem } from "./eventlist.js";
import { showFacts, showTiles } from "./facts.js";
import { oncePerFrame } from "./frames.js";
import { HeatMap } from "./heatmap.js";
import { icon } from "./icons.js";
import { live } from "./live.js";
import { misfitGallery } from "./misfits.js";
import { History } from "./series.js";
import { snapshotList } from "./snapshots.js";
import { onChange, store } from "./store.js";

/** @typedef {import("./change.js").View} View */

const VIEW_EVERY = 2000;
const EVENTS_SHOWN = 12;

/** @param {HTMLElement} main @param {string} id @returns {() => void} */
export function streamPage(main, id) {
  const history = new History();
  /** @type {View | null} */
  let view = null;
  /** @type {import("./snapshots.js").Snapshot[] | null} */
  let snapshots = null;
  let snapshotProblem = "";
  let left = false;
  let allEvents = false;
  let stopLive = () => {};

  const page = {
    view: () => /** @type {View} */ (view),
    snapshots: () => snapshots ?? [],
    events: () => history.eventList(),
    /** @param {string} words @param {View | null} [after] */
    done(words, after = null) {
      note(words);
      if (after) view = after;
      show();
      loadView();
      loadSnapshots();
    },
    /** @param {string} words */
    ended(words) {
      note(words);
      location.hash = "#/";
    },
  };
  const acts = {
    freeze: () => actions.changeMode(page, "frozen"),
    adapt: () => actions.changeMode(page, "adapt"),
    mode: () => actions.changeMode(page),
    reset: () => actions.reset(page),
    restore: () => actions.restore(page, page.snapshots()[0]),
    take: () => actions.takeSnapshot(page),
  };

  const sign = h("span", { class: "title-badge" });
  const lead = h("p", { class: "lead" });
  const problem = h("div", { class: "problem", role: "alert", hidden: true });
  const advice = h("section", { class: "advice", "aria-label": "What to do", hidden: true });
  const choice = h("section", { class: "card choice-words", "aria-label": "Why this pipeline", hidden: true });
  const tiles = h("dl", { class: "tiles" });
  const facts = h("dl", { class: "facts" });
  const charts = new Charts();
  const heat = new HeatMap();
  const classes = new ClassShares();
  const misfits = misfitGallery();
  const kept = snapshotList({
    take: acts.take,
    restore: (snapshot) => actions.restore(page, snapshot),
    remove: (snapshot) => actions.deleteSnapshot(page, snapshot),
  });
  const events = h("ol", { class: "events" });
  const moreEvents = button("Show all events", () => {
    allEvents = true;
    show();
  }, { class: "button small" });
  const restoreButton = button("Restore…", () => actions.restore(page));
  const bar = h(
    "div",
    { class: "buttons action-bar", role: "group", "aria-label": `Actions on ${id}` },
    button("Take a snapshot", acts.take),
    restoreButton,
    button("Mode…", acts.mode),
    button("Adapter…", () => actions.changeAdapter(page)),
    button("Reset…", acts.reset, { class: "button quiet-danger" }),
    button("End…", () => actions.endStream(page), { class: "button quiet-danger" }),
  );
  const body = h(
    "div",
    { hidden: true },
    bar,
    advice,
    h("section", { "aria-label": "Newest figures" }, tiles),
    choice,
    charts.element,
    h("div", { class: "two" }, heat.element, classes.element),
    misfits.element,
    kept.element,
    h("section", { class: "card", "aria-labelledby": "events-title" }, h("h2", { id: "events-title" }, "Events"), events, moreEvents),
    h("section", { class: "card", "aria-labelledby": "facts-title" }, h("h2", { id: "facts-title" }, "Facts"), facts),
  );
  fill(
    main,
    h("p", { class: "crumb" }, h("a", { href: "#/" }, icon("back"), "All streams")),
    h("div", { class: "title-line" }, h("h1", { tabindex: -1 }, id), sign),
    lead,
    problem,
    body,
  );

  const show = oncePerFrame(() => {
    if (left || !view) return;
    body.hidden = false;
    const row = store.rows.get(id);
    const badgeName = row && row.mode === view.mode ? row.badge : view.mode === "adapt" ? "steady" : view.mode;
    if (sign.dataset.shown !== badgeName) {
      sign.dataset.shown = badgeName;
      fill(sign, badge(badgeName));
    }
    setText(lead, `${view.model} adapted by ${view.adapter}`);
    restoreButton.disabled = !snapshots?.length;
    restoreButton.title = snapshots?.length ? "" : "There is no snapshot yet";
    showAdvice(advice, { badge: badgeName, reason: row?.reason ?? "", mode: view.mode, hasSnapshot: Boolean(snapshots?.length) }, acts);
    choice.hidden = !view.choice;
    fill(choice, h("h2", {}, "Why this pipeline"), h("p", {}, view.choice));
    showTiles(tiles, history);
    showFacts(facts, view, history);
    charts.show(history);
    heat.show(history.layers);
    classes.show(history.classes);
    misfits.show(history.misfits);
    kept.show(snapshots, snapshotProblem);
    showEvents();
  });

  function showEvents() {
    const all = history.eventList();
    const shown = allEvents ? all : all.slice(0, EVENTS_SHOWN);
    moreEvents.hidden = shown.length === all.length;
    const state = shown.map((event) => event.id).join();
    if (events.dataset.shown === state && state) return;
    events.dataset.shown = state;
    fill(events, shown.length ? shown.map((event) => eventItem(event, false)) : h("li", { class: "hint" }, "Nothing has happened to this stream yet."));
  }

  async function loadView() {
    try {
      view = await get(streamPath(id));
      show();
    } catch (error) {
      if (error instanceof Problem && error.status === 404) gone(error.message);
    }
  }

  async function loadSnapshots() {
    try {
      snapshots = await actions.loadSnapshots(id);
      snapshotProblem = "";
    } catch (error) {
      snapshotProblem = error instanceof Error ? error.message : String(error);
    }
    show();
  }

  async function begin() {
    problem.hidden = true;
    try {
      const [one, past] = await Promise.all([get(streamPath(id)), get(`${streamPath(id)}/history`)]);
      if (left) return;
      view = one;
      history.merge(past);
    } catch (error) {
      if (!left) failed(error);
      return;
    }
    show();
    loadSnapshots();
    stopLive = live({
      name: "stream",
      path: () => `${streamPath(id)}/history/live?since=${history.next}`,
      event: "points",
      onData: merge,
      onGone: gone,
    });
  }

  let asked = 0;
  /** @param {any} data */
  function merge(data) {
    history.merge(data);
    show();
    if (Date.now() - asked < VIEW_EVERY) return;
    asked = Date.now();
    loadView();
    if ((data.events ?? []).some((/** @type {{kind: string}} */ { kind }) => kind === "snapshot")) loadSnapshots();
  }

  /** @param {unknown} error */
  function failed(error) {
    const missing = error instanceof Problem && error.status === 404;
    problem.hidden = false;
    fill(
      problem,
      h("p", {}, error instanceof Error ? error.message : String(error)),
      missing ? h("a", { href: "#/" }, "All streams") : button("Try again", begin),
    );
  }

  /** @param {string} words */
  function gone(words) {
    if (left) return;
    stopLive();
    bar.hidden = true;
    advice.hidden = true;
    sign.replaceChildren();
    problem.hidden = false;
    fill(problem, h("p", {}, `This stream is no more (${words}). What is below is what was seen of it last.`), h("a", { href: "#/" }, "All streams"));
  }

  const stopRows = onChange(show);
  begin();
  return () => {
    left = true;
    stopRows();
    stopLive();
    charts.destroy();
    heat.destroy();
  };
}
