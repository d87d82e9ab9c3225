/** Small drawn signs; each comes beside a word, and so is hidden from screen readers. */

const SVG = "http://www.w3.org/2000/svg";

/** @type {Record<string, string>} paths on a field of 16 x 16, drawn as strokes */
const PATHS = {
  held: "M4 7.500h8v6H4zM5.5 7.500V5a2.5 2.5 0 0 1 5 0v2.500",
  suspected: "M5.200 1.800h5.600L14.200 5.200v5.600l-3.400 3.400H5.200l-3.400-3.400V5.200zM8 5v3.600M8 10.900v.1",
  guarded: "M8 1.8 13.5 4v4c0 3.2-2.3 5.4-5.5 6.4C4.8 13.4 2.5 11.2 2.5 8V4zM8 5v3.600M8 10.900v.1",
  drifting: "M8 2.2 14.3 13.400H1.700zM8 6.400v3M8 11.400v.1",
  settled: "M3 8.5 6.5 12 13 4.5",
  steady: "M3 8.5 6.5 12 13 4.5",
  new: "M8 3v10M3 8h10",
  frozen: "M5.5 3.500v9M10.5 3.500v9",
  resting: "M4 4h8l-8 8h8",
  shadow: "M8 2.500a5.5 5.5 0 1 0 0 11zM8 2.500a5.5 5.5 0 0 1 0 11",
  snapshot: "M2.5 5h3l1-1.500h3l1 1.500h3v8h-11zM8 11a2.2 2.2 0 1 0 0-4.4 2.2 2.2 0 0 0 0 4.4",
  reset: "M3 8a5 5 0 1 0 1.7-3.700L3 6M3 2.500V6h3.5",
  event: "M8 5.500a2.5 2.5 0 1 0 0 5 2.5 2.5 0 0 0 0-5",
  ended: "M4 4l8 8M12 4l-8 8",
  probe: "M7 2.500a4.5 4.5 0 1 0 0 9 4.5 4.5 0 0 0 0-9M10.5 10.5 14 14",
  back: "M10 3 5 8l5 5",
  light:
    "M8 5a3 3 0 1 0 0 6 3 3 0 0 0 0-6M8 1v1.500M8 13.500V15M1 8h1.500M13.5 8H15M3 3l1 1M12 12l1 1M3 13l1-1M12 4l1-1",
  dark: "M13 9.500A5.5 5.5 0 1 1 6.5 3 4.5 4.5 0 0 0 13 9.500z",
  system: "M2 3h12v8H2zM5.5 14h5M8 11v3",
};

/**
 * Return a sign by its name.
 *
 * @param {string} name
 * @returns {SVGElement}
 */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const path = document.createElementNS(SVG, "path");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  path.setAttribute("d", PATHS[name] ?? PATHS.event);
  svg.append(path);
  return svg;
}
