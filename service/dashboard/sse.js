/** Read server-sent events from the body of a response. */

/** @typedef {{event: string, data: string, id: string | null}} Message */

/**
 * Yield the messages of an event stream as they arrive.
 *
 * @param {ReadableStream<Uint8Array>} body
 * @param {() => void} [alive] called whenever anything arrives, comments too
 * @returns {AsyncGenerator<Message>}
 */
export async function* messages(body, alive = () => {}) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      alive();
      rest += decoder.decode(value, { stream: true });
      const blocks = rest.split(/\r?\n\r?\n/);
      rest = blocks.pop() ?? "";
      for (const block of blocks) {
        const message = parse(block);
        if (message) yield message;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** @param {string} block @returns {Message | null} */
function parse(block) {
  const data = [];
  let event = "message";
  let id = null;
  for (const line of block.split(/\r?\n/)) {
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "data") data.push(value);
    if (field === "event") event = value;
    if (field === "id") id = value;
  }
  return data.length ? { event, data: data.join("\n"), id } : null;
}
