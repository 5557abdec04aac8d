// Runs in a worker: the shipped weights fill the holes of a photo.
//
// Comes in: load {network, runtime, threads}, photo {width, height, pixels: RGBA}, fill {number, holes: a byte per
// pixel}. Goes out: ready {threads}, result {number, png, seconds, problem}.

import { ort, startNetwork } from "./onnx.js";

let network = null;
let current = null; // the photo: {width, height, pixels}
let wanted = null; // the newest stroke that is not filled yet
let busy = false;

async function load(given) {
  network = await startNetwork(given);
  postMessage({ kind: "ready", threads: given.threads });
  await work();
}

// One stroke after the other; of those that come while one is filled, only the newest counts.
async function work() {
  if (busy || !network) return;
  busy = true;
  try {
    while (wanted) {
      const stroke = wanted;
      wanted = null;
      postMessage(await fillHoles(stroke));
      await new Promise((resolve) => setTimeout(resolve)); // let newer strokes in
    }
  } finally {
    busy = false;
  }
}

// The fill as a PNG that is transparent outside the holes, so that nothing else of the photo can change.
async function fillHoles({ number, holes, photo }) {
  const start = performance.now(), { width, height, pixels } = photo, area = width * height;
  const valid = holes.map((hole) => 1 - hole);
  const result = { kind: "result", number, png: null };
  if (!holes.includes(1)) return { ...result, problem: "nothing is painted" };
  if (!valid.includes(1)) return { ...result, problem: "all is painted: nothing is left to continue" };
  const image = new Float32Array(3 * area);
  for (let c = 0; c < 3; c++) for (let i = 0; i < area; i++) image[c * area + i] = pixels[4 * i + c] / 255;
  const { output } = await network.run({
    image: new ort.Tensor("float32", image, [1, 3, height, width]),
    mask: new ort.Tensor("bool", valid, [1, 1, height, width]),
  });
  const fill = new ImageData(width, height), gray = isGray(pixels, valid);
  const level = (value) => Math.round(255 * Math.min(1, Math.max(0, value || 0))); // NaN is 0
  for (let i = 0; i < area; i++) {
    if (valid[i]) continue;
    const color = [0, 1, 2].map((c) => level(output.data[c * area + i]));
    if (gray) color.fill(Math.round((color[0] + color[1] + color[2]) / 3));
    fill.data.set([...color, 255], 4 * i);
  }
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d").putImageData(fill, 0, 0);
  const png = await (await canvas.convertToBlob({ type: "image/png" })).arrayBuffer();
  return { ...result, png, seconds: (performance.now() - start) / 1000 };
}

// Whether all that is known is gray; then the fill is, too.
function isGray(pixels, valid) {
  return valid.every((known, i) => !known || (pixels[4 * i] === pixels[4 * i + 1] && pixels[4 * i] === pixels[4 * i + 2]));
}

const requests = {
  load,
  photo: (given) => {
    current = given;
    wanted = null;
  },
  fill: (given) => {
    wanted = { ...given, photo: current };
    return work();
  },
};

self.addEventListener("message", ({ data }) => requests[data.kind](data));
