/** Calls to the server; each refusal is a Problem with the server's error text. */

import { signIn } from "./session.js";

/** A call that was refused or not answered; status 0 means that nobody answered. */
export class Problem extends Error {
  /** @param {number} status @param {string} words */
  constructor(status, words) {
    super(words);
    this.name = "Problem";
    this.status = status;
  }
}

/**
 * @param {string} path
 * @param {AbortSignal} [signal]
 * @returns {Promise<any>}
 */
export const get = (path, signal) => call("GET", path, { signal });

/**
 * Make a call; ask for a key where one is needed, then go on.
 *
 * @param {"GET" | "POST" | "PATCH" | "DELETE"} method
 * @param {string} path
 * @param {{body?: object, generation?: number | null, signal?: AbortSignal}} [settings]
 * @returns {Promise<any>} the decoded answer, null where there is none
 */
export async function call(method, path, { body, generation, signal } = {}) {
  /** @type {Record<string, string>} */
  const headers = { Accept: "application/json" };
  if (method === "POST" || method === "PATCH") headers["Content-Type"] = "application/json";
  if (generation !== undefined && generation !== null) headers["If-Match"] = `"${generation}"`;
  const sent = method === "POST" ? (body ?? {}) : body;
  for (;;) {
    const response = await reach(path, { method, headers, signal, body: sent && JSON.stringify(sent) });
    if (response.status !== 401) return await answer(response);
    await signIn();
  }
}

/** @param {string} id */
export const streamPath = (id) => `v1/streams/${encodeURIComponent(id)}`;

/**
 * Return why a call was refused, in words.
 *
 * @param {Response} response
 * @returns {Promise<Problem>}
 */
export async function problemOf(response) {
  const body = await response.json().catch(() => null);
  const words = typeof body?.error === "string" ? body.error : `The server answered ${response.status}.`;
  return new Problem(response.status, words);
}

/** @param {string} path @param {RequestInit} init @returns {Promise<Response>} */
export async function reach(path, init) {
  try {
    return await fetch(path, init);
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new Problem(0, "The server does not answer.");
  }
}

/** @param {Response} response @returns {Promise<any>} */
async function answer(response) {
  if (!response.ok) throw await problemOf(response);
  if (response.status === 204) return null;
  try {
    return await response.json();
  } catch {
    throw new Problem(response.status, "The server's answer could not be read.");
  }
}
