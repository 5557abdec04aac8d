// The mask after every layer, as a strip of small pictures: first down the encoder, then up the decoder.

import { element } from "./element.js";

const VALID = [243, 239, 228], FILLED = [240, 168, 48], HOLE = [150, 18, 60]; // the colors of the notebooks

function paint(canvas, { width, height, valid, before }) {
  canvas.width = width;
  canvas.height = height;
  const pen = canvas.getContext("2d"), image = pen.createImageData(width, height);
  for (let i = 0; i < width * height; i++) image.data.set([...(valid[i] ? (before[i] ? VALID : FILLED) : HOLE), 255], 4 * i);
  pen.putImageData(image, 0, 0);
}

const percent = (share) => (share ? `${(100 * share).toFixed(share < 0.001 ? 2 : 1)} % hole` : "no hole");

function describe(masks, painted) {
  if (painted === 0) return "Nothing is painted: every pixel of every mask is valid.";
  if (painted === 1) return "All is painted: no layer has anything to begin with.";
  const levels = masks.length / 2;
  const gone = masks.slice(0, levels).findIndex((mask) => !mask.holes);
  if (gone >= 0) return `The hole is gone at level ${gone + 1} of ${levels}: there, every pixel has seen something that is known.`;
  return `The hole is so large that it is still there at level ${levels}, the last one. Its middle is filled by interpolation.`;
}

// masks: [{name, width, height, valid, before, holes}, ...]; holes and painted are shares of hole pixels.
export function drawStrip(strip, masks, painted) {
  if (!strip.childElementCount) {
    strip.append(element("h2", {}, "The mask after every layer"), element("p", { role: "status" }));
    for (const half of ["Down, the encoder", "Up, the decoder"]) {
      const row = element("div", { className: "try-row", role: "group", ariaLabel: half });
      strip.append(element("h3", {}, half), row);
      for (let i = 0; i < masks.length / 2; i++) {
        row.append(element("figure", {}, element("canvas", { role: "img" }), element("figcaption")));
      }
    }
  }
  strip.querySelector("p").textContent = describe(masks, painted);
  strip.querySelectorAll("figure").forEach((figure, i) => {
    const mask = masks[i], canvas = figure.querySelector("canvas");
    const name = i < masks.length / 2 ? `level ${i + 1}` : mask.name;
    paint(canvas, mask);
    canvas.setAttribute("aria-label", `The mask after ${mask.name}: ${percent(mask.holes)}`);
    figure.querySelector("figcaption").textContent = `${name}\n${mask.width} × ${mask.height}\n${percent(mask.holes)}`;
  });
}
