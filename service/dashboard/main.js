/** Start the page: its frame, its routes, and what every page shares. */

import { isTrouble } from "./badges.js";
import { fill, h } from "./dom.js";
import { eventsPage } from "./events.js";
import { keepTimesRight } from "./format.js";
import { overviewPage } from "./overview.js";
import { learnRights } from "./rights.js";
import { signedIn, signOut } from "./session.js";
import { learnSignals } from "./signals.js";
import { followStreams, onChange, store } from "./store.js";
import { streamPage } from "./stream.js";
import { offerThemes } from "./themes.js";

/** @param {string} id @returns {HTMLElement} */
const element = (id) => /** @type {HTMLElement} */ (document.getElementById(id));

let leave = () => {};
let title = "";

/** Show the page that the address names, and give it the focus unless it is the first one. @param {boolean} first */
function route(first) {
  leave();
  const [page, id] = location.hash.replace(/^#\/?/, "").split("/");
  const main = element("main");
  element("nav-streams").removeAttribute("aria-current");
  element("nav-events").removeAttribute("aria-current");
  scrollTo(0, 0);
  if (page === "") {
    title = "Streams";
    element("nav-streams").setAttribute("aria-current", "page");
    leave = overviewPage(main);
  } else if (page === "streams" && id) {
    title = decoded(id);
    element("nav-streams").setAttribute("aria-current", "true");
    leave = streamPage(main, title);
  } else if (page === "events") {
    title = "Events";
    element("nav-events").setAttribute("aria-current", "page");
    leave = eventsPage(main);
  } else {
    title = "Not found";
    leave = () => {};
    fill(main, h("h1", { tabindex: -1 }, "There is no such page"), h("p", {}, h("a", { href: "#/" }, "All streams")));
  }
  showTrouble();
  if (!first) main.querySelector("h1")?.focus({ preventScroll: true });
}

/** Tell of trouble wherever the operator looks: in the tab's title and icon, and in the header. */
function showTrouble() {
  let troubled = 0;
  for (const row of store.rows.values()) if (isTrouble(row.badge)) troubled += 1;
  document.title = `${troubled ? `(${troubled}) ` : ""}${title} · Acclimate`;
  const wanted = troubled ? "dashboard/icon-trouble.svg" : "dashboard/icon.svg";
  if (element("icon").getAttribute("href") !== wanted) element("icon").setAttribute("href", wanted);
  const link = element("nav-streams");
  if (link.dataset.troubled === String(troubled)) return;
  link.dataset.troubled = String(troubled);
  fill(
    link,
    "Streams",
    troubled ? h("span", { class: "count" }, troubled, h("span", { class: "sr-only" }, " in trouble")) : null,
  );
}

/** @param {string} text */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function showSession() {
  element("sign-out").hidden = !signedIn();
}

offerThemes(element("theme"));
element("sign-out").addEventListener("click", signOut);
// The skip link may not change the address: routes live there.
element("skip").addEventListener("click", (event) => {
  event.preventDefault();
  element("main").focus();
});
document.addEventListener("session", showSession);
addEventListener("hashchange", () => route(false));
onChange(showTrouble);
showSession();
keepTimesRight();
learnRights();
learnSignals();
followStreams();
route(true);
