/** Recent images with the least sure answers, each with its label. */

import { fill, h } from "./dom.js";
import { agoElement, decimal } from "./format.js";

/** @returns {{element: HTMLElement, show: (misfits: import("./series.js").Misfit[]) => void}} */
export function misfitGallery() {
  const list = h("ul", { class: "misfits" });
  const element = h(
    "section",
    { class: "card", "aria-labelledby": "misfits-title", hidden: true },
    h("h2", { id: "misfits-title" }, "Images that fit least"),
    h(
      "p",
      { class: "hint" },
      "The image with the least sure answer of each recent request. These images show best what has changed in front of the camera.",
    ),
    list,
  );
  let shown = "";
  return {
    element,
    show(misfits) {
      const safe = misfits.filter(({ image }) => image.startsWith("data:image/"));
      element.hidden = safe.length === 0;
      const state = safe.map(({ time, label }) => `${time} ${label}`).join();
      if (state === shown) return;
      shown = state;
      fill(list, safe.map(misfit));
    },
  };
}

/** @param {import("./series.js").Misfit} one */
function misfit({ time, label, entropy, image }) {
  return h(
    "li",
    {},
    h("img", { src: image, alt: `Image answered as ${label}` }),
    h("strong", {}, label),
    h("span", { class: "hint" }, `entropy ${decimal(entropy, 2)}`),
    h("span", { class: "hint" }, agoElement(time)),
  );
}
