/** The page of one stream: its state, its figures, and the actions on it. */

import { changeAdapter, changeMode, endStream, reset } from "./actions.js";
import { showAdvice } from "./advice.js";
import { note } from "./announce.js";
import { badge } from "./badges.js";
import { Charts } from "./charts.js";
import { ClassShares } from "./classes.js";
import { button, fill, h, refill, setText } from "./dom.js";
import { entropyBars } from "./entropies.js";
import { facts, tiles } from "./facts.js";
import { Feed } from "./feed.js";
import { sentence } from "./format.js";
import { oncePerFrame } from "./frames.js";
import { changeGuard } from "./guarding.js";
import { HeatMap } from "./heatmap.js";
import { icon } from "./icons.js";
import { deleteSnapshot, restore, takeSnapshot } from "./keeping.js";
import { misfitGallery } from "./misfits.js";
import { withNames } from "./naming.js";
import { probeReport } from "./probe.js";
import { recentEvents } from "./recent.js";
import { lock } from "./rights.js";
import { shadowReport } from "./shadow.js";
import { snapshotList } from "./snapshots.js";
import { onChange, store } from "./store.js";
import { unfitButtons } from "./unfit.js";

/** @typedef {import("./change.js").View} View */

/** @param {HTMLElement} main @param {string} id @returns {() => void} */
export function streamPage(main, id) {
  const show = oncePerFrame(() => feed.stopped || draw());
  const feed = new Feed(id, show);
  const acts = actsOn(feed);
  const unfitDone = {
    /** @param {string} words */
    reset(words) {
      note(words);
      feed.begin();
    },
    ended: leaveAfter,
  };
  const head = header(id);
  const bar = actionBar(id, acts);
  const advice = h("section", { class: "advice", "aria-label": "What to do", hidden: true });
  const problem = h("div", { class: "problem", role: "alert", hidden: true });
  const figures = tiles();
  const choice = h("p", {});
  const choiceCard = h(
    "section",
    { class: "card choice-words", hidden: true },
    h("h2", {}, "Why this pipeline"),
    choice,
  );
  const shadow = shadowReport();
  const charts = new Charts((seconds) => feed.span(seconds));
  const heat = new HeatMap();
  const classes = new ClassShares();
  const entropies = entropyBars();
  const probe = probeReport();
  const misfits = misfitGallery();
  const kept = snapshotList({ take: acts.take, restore: acts.restoreOne, remove: acts.remove });
  const events = recentEvents();
  const settings = facts();
  const factsTitle = h("h2", { id: "facts-title" }, "Facts");
  const body = h(
    "div",
    { hidden: true },
    advice,
    bar.element,
    h("section", { "aria-label": "Newest figures" }, figures.element),
    choiceCard,
    shadow.element,
    charts.element,
    h("div", { class: "two" }, heat.element, classes.element),
    h("div", { class: "two" }, entropies.element, probe.element),
    misfits.element,
    kept.element,
    events.element,
    h("section", { class: "card", "aria-labelledby": "facts-title" }, factsTitle, settings.element),
  );
  fill(main, head.element, problem, body);

  function draw() {
    const { view, history, snapshots } = feed;
    showProblem(problem, feed, unfitDone);
    lock(problem);
    body.hidden = view === null;
    if (view === null) return;
    const row = store.rows.get(id);
    if (row) feed.compare(row);
    const state = feed.gone
      ? ""
      : row && row.mode === view.mode
        ? row.badge
        : view.mode === "adapt"
          ? "steady"
          : view.mode;
    const hasSnapshot = Boolean(snapshots?.length);
    head.show(view, state);
    bar.show(hasSnapshot, feed.gone);
    showAdvice(
      advice,
      { badge: state, reason: withNames(row?.reason ?? "", view.model), mode: feed.gone ? "" : view.mode, hasSnapshot },
      acts,
    );
    figures.show(history);
    choiceCard.hidden = !view.choice;
    setText(choice, sentence(view.choice));
    shadow.show(view.shadow);
    charts.show(history);
    heat.show(history.layers);
    classes.show(history.classes);
    entropies.show(history.entropies, history.classes?.names.length ?? 0);
    probe.show(history.probe);
    misfits.show(history.misfits);
    kept.show(snapshots, feed.snapshotProblem);
    events.show(history.eventList());
    settings.show(view, history);
    lock(bar.element, advice, kept.element);
  }

  const stopRows = onChange(show);
  document.addEventListener("rights", show);
  feed.begin();
  return () => {
    stopRows();
    document.removeEventListener("rights", show);
    feed.stop();
    charts.destroy();
    heat.destroy();
  };
}

/** Show a note, and the overview in place of a stream that has ended. @param {string} words */
function leaveAfter(words) {
  note(words);
  location.hash = "#/";
}

/** What buttons do. @param {Feed} feed */
function actsOn(feed) {
  const page = {
    view: () => /** @type {View} */ (feed.view),
    snapshots: () => feed.snapshots ?? [],
    events: () => feed.history.eventList(),
    /** @param {string} words @param {View | null} [after] */
    done(words, after) {
      note(words);
      feed.lookAgain(after);
    },
    ended: leaveAfter,
  };
  return {
    freeze: () => changeMode(page, "frozen"),
    adapt: () => changeMode(page, "adapt"),
    mode: () => changeMode(page),
    adapter: () => changeAdapter(page),
    guard: () => changeGuard(page),
    reset: () => reset(page),
    end: () => endStream(page),
    take: () => takeSnapshot(page),
    restore: () => restore(page),
    /** @param {import("./snapshots.js").Snapshot} snapshot */
    restoreOne: (snapshot) => restore(page, snapshot),
    /** @param {import("./snapshots.js").Snapshot} snapshot */
    remove: (snapshot) => deleteSnapshot(page, snapshot),
  };
}

/** @param {string} id */
function header(id) {
  const sign = h("span", { class: "title-badge" });
  const lead = h("p", { class: "lead" });
  const element = h(
    "div",
    {},
    h("p", { class: "crumb" }, h("a", { href: "#/" }, icon("back"), "All streams")),
    h("div", { class: "title-line" }, h("h1", { tabindex: -1 }, id), sign),
    lead,
  );
  return {
    element,
    /** @param {View} view @param {string} state */
    show(view, state) {
      setText(lead, `${view.model} adapted by ${view.adapter}`);
      if (sign.dataset.shown === state) return;
      sign.dataset.shown = state;
      fill(sign, state ? badge(state) : null);
    },
  };
}

/** @param {string} id @param {ReturnType<typeof actsOn>} acts */
function actionBar(id, acts) {
  const restoring = button("Restore…", acts.restore);
  const element = h(
    "div",
    { class: "buttons action-bar", role: "group", "aria-label": `Actions on ${id}` },
    button("Take a snapshot", acts.take),
    restoring,
    button("Mode…", acts.mode),
    button("Adapter…", acts.adapter),
    button("Guard…", acts.guard),
    button("Reset…", acts.reset, { class: "button quiet-danger" }),
    button("End…", acts.end, { class: "button quiet-danger" }),
  );
  return {
    element,
    /** @param {boolean} hasSnapshot @param {boolean} gone */
    show(hasSnapshot, gone) {
      element.hidden = gone;
      restoring.disabled = !hasSnapshot;
      restoring.title = hasSnapshot ? "" : "There is no snapshot yet";
    },
  };
}

/** @param {HTMLElement} element @param {Feed} feed @param {Parameters<typeof unfitButtons>[1]} done */
function showProblem(element, feed, done) {
  const { id, problem, gone, view } = feed;
  const unfit = feed.unfit && store.rows.has(id); // an id of a wrong form is refused with the same status
  const state = JSON.stringify([problem, unfit]);
  if (element.dataset.shown === state) return;
  element.dataset.shown = state;
  element.hidden = problem === "";
  const words = gone && view ? "This stream has ended. The page shows its last known state." : sentence(problem);
  const way = gone
    ? h("a", { href: "#/" }, "All streams")
    : button("Try again", () => feed.begin(), { "data-harmless": "" });
  refill(element, h("p", {}, words), way, unfit ? unfitButtons(id, done) : null);
}
