/** The permissions of this session's key; the page disables everything that the server would refuse. */

const WHY = "Your key cannot change streams; sign in with a key of the scope admin";

/** Whether streams may be changed; until the server has said so, what it refuses is told as a problem. */
export const rights = { admin: true };

/** Ask the server what this session may do. */
export async function learnRights() {
  try {
    const response = await fetch("v1/session", { headers: { Accept: "application/json" } });
    if (!response.ok) return;
    const { scopes } = await response.json();
    rights.admin = scopes.length === 0 || scopes.includes("admin");
    document.dispatchEvent(new Event("rights"));
  } catch {
    // The connection tells of itself.
  }
}

/** Disable the buttons of some elements that would change a stream, where the key may not. @param {Element[]} elements */
export function lock(...elements) {
  for (const element of elements) {
    for (const button of element.querySelectorAll("button:not([data-harmless])")) {
      const given = /** @type {HTMLButtonElement} */ (button);
      if (rights.admin) {
        if (given.dataset.locked) {
          given.disabled = false;
          given.title = "";
          delete given.dataset.locked;
        }
        continue;
      }
      given.disabled = true;
      given.title = WHY;
      given.dataset.locked = "yes";
    }
  }
}
