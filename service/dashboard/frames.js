/** Do work once per frame however often it is asked for; in a hidden tab, about once a second. */

const LATEST_MILLISECONDS = 1000;

/**
 * Return a function that asks for `work`; asked again before it ran, it runs once.
 *
 * @param {() => void} work
 * @returns {() => void}
 */
export function oncePerFrame(work) {
  let frame = 0;
  let timer = 0;
  const run = () => {
    cancelAnimationFrame(frame);
    clearTimeout(timer);
    frame = timer = 0;
    work();
  };
  return () => {
    if (timer) return;
    frame = requestAnimationFrame(run);
    // Frames do not come in a hidden tab, but its title must still tell of trouble.
    timer = window.setTimeout(run, LATEST_MILLISECONDS);
  };
}
