/** Follow an event stream: resume where it broke off, ever more patiently, and pause while nobody looks. */

import { Problem, problemOf, reach } from "./api.js";
import { connection } from "./connection.js";
import { signIn } from "./session.js";
import { messages } from "./sse.js";

const FIRST_WAIT = 1000;
const LONGEST_WAIT = 15000;
const SILENCE = 60000;

/**
 * @typedef {object} Follow
 * @property {string} name what is followed, for the state of the connection
 * @property {() => string} path asked anew for every connection, so that it can name where to go on
 * @property {string} event
 * @property {(data: any) => void} onData
 * @property {() => void} [onOpen]
 * @property {(words: string) => void} [onGone] called, once, if what is followed is no more
 * @property {boolean} [whileHidden] go on in a hidden tab; browsers allow few connections, so most do not
 */

/**
 * Follow an event stream until the returned function is called.
 *
 * @param {Follow} follow
 * @returns {() => void}
 */
export function live(follow) {
  let stopped = false;
  let lastId = "";
  let failures = 0;
  let abort = new AbortController();

  async function once() {
    const response = await reach(follow.path(), {
      headers: { Accept: "text/event-stream", ...(lastId ? { "Last-Event-ID": lastId } : {}) },
      signal: abort.signal,
      cache: "no-store",
    });
    if (response.status === 401) return await signIn();
    if (response.status === 404) {
      const words = (await problemOf(response)).message;
      stop();
      return follow.onGone?.(words);
    }
    if (!response.ok || !response.body) throw await problemOf(response);
    connection.open(follow.name);
    follow.onOpen?.();
    await read(response.body);
    throw new Problem(0, "The server closed the connection.");
  }

  /** @param {ReadableStream<Uint8Array>} body */
  async function read(body) {
    const mine = abort;
    const watch = () => setTimeout(() => mine.abort(), SILENCE);
    let silence = watch();
    const alive = () => {
      clearTimeout(silence);
      silence = watch();
    };
    try {
      for await (const message of messages(body, alive)) {
        failures = 0;
        if (message.id !== null) lastId = message.id;
        if (message.event === follow.event && !stopped) follow.onData(JSON.parse(message.data));
      }
    } finally {
      clearTimeout(silence);
    }
  }

  async function run() {
    while (!stopped) {
      abort = new AbortController();
      if (paused()) await becomesVisible();
      try {
        await once();
      } catch (error) {
        if (stopped) return;
        if (paused()) continue;
        const wait = Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** failures) * (0.8 + 0.4 * Math.random());
        failures += 1;
        const refused = error instanceof Problem && error.status >= 400 && error.status < 500;
        await connection.wait(follow.name, wait, wordsOf(error), refused);
      }
    }
  }

  const paused = () => document.hidden && !follow.whileHidden;
  const onHidden = () => paused() && abort.abort();

  function stop() {
    stopped = true;
    document.removeEventListener("visibilitychange", onHidden);
    connection.forget(follow.name);
    abort.abort();
  }

  document.addEventListener("visibilitychange", onHidden);
  run();
  return stop;
}

/** @param {unknown} error @returns {string} */
function wordsOf(error) {
  if (error instanceof Problem) return error.message;
  if (error instanceof DOMException && error.name === "AbortError") return "The server sent nothing for a minute.";
  return error instanceof SyntaxError ? "The server's message could not be read." : "The connection broke off.";
}

function becomesVisible() {
  return new Promise((resolve) => {
    document.addEventListener("visibilitychange", resolve, { once: true });
  });
}
