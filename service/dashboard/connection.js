/** The state of the connection to the server: in the header, and in a banner if it is lost. */

import { say } from "./announce.js";
import { button, fill, h, setText } from "./dom.js";
import { clock, sentence } from "./format.js";

/** @typedef {{state: "live" | "waiting", until: number, title: string, words: string, again: () => void}} Link */

/** @type {Map<string, Link>} */
const links = new Map();
const LOST = "The connection is lost.";
const REFUSED = "The server refuses live updates.";
let lostSince = 0;
/** @type {ReturnType<typeof setInterval> | undefined} */
let ticking;

export const connection = {
  /** A connection stands. @param {string} name */
  open(name) {
    links.set(name, { state: "live", until: 0, title: "", words: "", again: () => {} });
    show();
  },

  /**
   * A connection is lost: wait, unless the operator or the network asks to try at once.
   *
   * @param {string} name
   * @param {number} wait in milliseconds
   * @param {string} words
   * @param {boolean} refused whether the server answers, but will not
   * @returns {Promise<void>}
   */
  wait(name, wait, words, refused) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, wait);
      const again = () => {
        clearTimeout(timer);
        resolve();
      };
      links.set(name, { state: "waiting", until: Date.now() + wait, title: refused ? REFUSED : LOST, words, again });
      show();
    });
  },

  /** Nobody asks for a connection any more. @param {string} name */
  forget(name) {
    links.get(name)?.again();
    links.delete(name);
    show();
  },

  /** Try every lost connection at once. */
  retry() {
    for (const link of links.values()) link.again();
  },
};

addEventListener("online", () => connection.retry());

function show() {
  const lost = [...links.values()].filter((link) => link.state === "waiting");
  const state = lost.length ? "waiting" : links.size ? "live" : "connecting";
  const sign = document.getElementById("connection");
  if (sign && sign.dataset.state !== state) {
    sign.dataset.state = state;
    sign.textContent = { live: "Live", waiting: "No connection", connecting: "Connecting" }[state];
  }
  const banner = document.getElementById("banner");
  if (!banner) return;
  if (!lost.length) {
    if (lostSince) say("Connected again.");
    lostSince = 0;
    clearInterval(ticking);
    banner.hidden = true;
    return;
  }
  if (lostSince === 0) {
    lostSince = Date.now();
    const countdown = h("span", { "aria-hidden": "true" });
    fill(
      banner,
      h("strong", { class: "banner-title" }),
      `The figures are from ${clock(lostSince / 1000, true)}. `,
      h("span", { class: "banner-words" }),
      countdown,
      button("Try now", connection.retry, { class: "button small" }),
    );
    ticking = setInterval(() => countDown(countdown), 500);
    banner.hidden = false;
  }
  const title = banner.querySelector(".banner-title");
  if (title) setText(title, lost[0].title);
  const said = banner.querySelector(".banner-words");
  if (said) setText(said, `${sentence(lost[0].words)} `);
}

/** @param {HTMLElement} element */
function countDown(element) {
  const times = [...links.values()].filter((link) => link.state === "waiting").map((link) => link.until);
  const seconds = Math.ceil((Math.min(...times) - Date.now()) / 1000);
  element.textContent = seconds > 0 ? `Trying again in ${seconds} s. ` : "Trying again. ";
}
