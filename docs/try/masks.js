// Runs in a worker: the mask after every layer of the shipped network, without computing a feature.
//
// Comes in: load {network, runtime, threads}, trace {width, height, holes: a byte per pixel}.
// Goes out: {masks, share: of hole pixels}.

import { ort, startNetwork } from "./onnx.js";

let start;
const started = new Promise((resolve) => (start = resolve)); // strokes wait for it

// A mask beside what was known before: an encoder's is compared with the level above, a decoder's with its skip.
function compare(name, mask, source, step) {
  const [, , height, width] = mask.dims, wide = source.dims[3];
  const valid = Uint8Array.from(mask.data), before = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) before[y * width + x] = source.data[step * (y * wide + x)];
  const holes = valid.reduce((count, value) => count + 1 - value, 0) / valid.length;
  return { name, width, height, valid, before, holes };
}

async function trace({ width, height, holes }) {
  const session = await started, names = session.outputNames, levels = names.length / 2;
  const mask = new ort.Tensor("bool", holes.map((hole) => 1 - hole), [1, 1, height, width]);
  const outputs = await session.run({ mask });
  const all = [mask, ...names.map((name) => outputs[name])]; // the photo's, level 1 to the last, decoder.0 to the last
  const compared = names.map((name, i) =>
    i < levels ? compare(name, all[i + 1], all[i], 2) : compare(name, all[i + 1], all[2 * levels - 1 - i], 1),
  );
  return { masks: compared, share: holes.reduce((count, hole) => count + hole, 0) / holes.length };
}

const requests = {
  load(given) {
    start(startNetwork(given));
  },
  async trace(given) {
    postMessage(await trace(given));
  },
};

self.addEventListener("message", ({ data }) => requests[data.kind](data));
