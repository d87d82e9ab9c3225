/** Do work once per frame however often it is asked for; in a hidden tab, a few times a second. */

const HIDDEN_MILLISECONDS = 400;

/**
 * Return a function that asks for `work`; asked again before it ran, it runs once.
 *
 * @param {() => void} work
 * @returns {() => void}
 */
export function oncePerFrame(work) {
  let asked = false;
  const run = () => {
    asked = false;
    work();
  };
  return () => {
    if (asked) return;
    asked = true;
    // Frames do not come in a hidden tab, but its title must still tell of trouble.
    if (document.hidden) setTimeout(run, HIDDEN_MILLISECONDS);
    else requestAnimationFrame(run);
  };
}
