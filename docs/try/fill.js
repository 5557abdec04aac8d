// Runs in a worker: the shipped weights, and the masks of their layers, in ONNX Runtime.
//
// Comes in: load {threads}, photo {width, height, pixels: RGBA}, fill {number, bits: the holes, eight pixels a byte}.
// Goes out: loading {share}, ready {threads}, masks {number, masks, painted}, result {number, png, seconds, problem}, failed.

import * as ort from "./ort.wasm.min.mjs";

ort.env.wasm.wasmPaths = new URL("./", import.meta.url).href;

let networks = null; // {fill, masks}, once they are there
let current = null; // the photo: {width, height, pixels}
let wanted = null; // the newest stroke that is not filled yet
let busy = false;

async function download(name, onProgress) {
  const response = await fetch(new URL(`./${name}.gz`, import.meta.url));
  if (!response.ok) throw new Error(`${name}.gz: ${response.status} ${response.statusText}`);
  const total = Number(response.headers.get("Content-Length")), parts = [];
  let seen = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    onProgress(total ? Math.min(1, (seen += value.length) / total) : 0);
  }
  const packed = new Blob(parts), start = new Uint8Array(await packed.slice(0, 2).arrayBuffer());
  const gzipped = start[0] === 0x1f && start[1] === 0x8b; // some servers have it unpacked by the browser
  const bytes = gzipped ? packed.stream().pipeThrough(new DecompressionStream("gzip")) : packed.stream();
  return new Uint8Array(await new Response(bytes).arrayBuffer());
}

async function load({ threads }) {
  ort.env.wasm.numThreads = threads;
  const report = (share) => postMessage({ kind: "loading", share });
  const start = async (bytes) => ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  const masks = await start(await download("masks.onnx", () => {}));
  const fill = await start(await download("fill.onnx", report));
  networks = { fill, masks };
  postMessage({ kind: "ready", threads });
  await work();
}

// One stroke after the other; of those that come while one is filled, only the newest counts.
async function work() {
  if (busy || !networks) return;
  busy = true;
  while (wanted) {
    const { number, bits, photo } = wanted;
    wanted = null;
    const { width, height } = photo, valid = new Uint8Array(width * height);
    for (let i = 0; i < valid.length; i++) valid[i] = 1 ^ ((bits[i >> 3] >> (7 - (i & 7))) & 1);
    const painted = valid.reduce((count, value) => count + 1 - value, 0);
    const mask = new ort.Tensor("bool", valid, [1, 1, height, width]);
    postMessage({ kind: "masks", number, masks: await traceMasks(mask), painted });
    const problem = { 0: "nothing is painted", [valid.length]: "all is painted: nothing is left to continue" }[painted];
    if (problem) postMessage({ kind: "result", number, png: null, problem });
    else await fillHoles(number, photo, mask, valid);
    await new Promise((resolve) => setTimeout(resolve)); // let newer strokes in
  }
  busy = false;
}

// Every mask beside what it was before: an encoder's is compared with the level above, a decoder's with its skip.
async function traceMasks(mask) {
  const outputs = await networks.masks.run({ mask });
  const names = networks.masks.outputNames, levels = names.length / 2;
  const all = [mask, ...names.map((name) => outputs[name])];
  return names.map((name, i) => {
    const [, , height, width] = all[i + 1].dims, valid = Uint8Array.from(all[i + 1].data);
    const source = i < levels ? all[i] : all[2 * levels - 1 - i], step = i < levels ? 2 : 1;
    const [, , , wide] = source.dims, before = new Uint8Array(width * height);
    for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) before[y * width + x] = source.data[step * (y * wide + x)];
    const holes = valid.reduce((count, value) => count + 1 - value, 0) / valid.length;
    return { name, width, height, valid, before, holes };
  });
}

// Sends the fill as a PNG that is transparent outside the holes, so that nothing else of the photo can change.
async function fillHoles(number, photo, mask, valid) {
  const start = performance.now(), { width, height, pixels } = photo, area = width * height;
  const image = new Float32Array(3 * area);
  for (let c = 0; c < 3; c++) for (let i = 0; i < area; i++) image[c * area + i] = pixels[4 * i + c] / 255;
  const { output } = await networks.fill.run({ image: new ort.Tensor("float32", image, [1, 3, height, width]), mask });
  const filled = new ImageData(width, height), gray = isGray(pixels, valid);
  for (let i = 0; i < area; i++) {
    if (valid[i]) continue;
    const color = [0, 1, 2].map((c) => Math.round(255 * Math.min(1, Math.max(0, output.data[c * area + i] || 0))));
    const mean = Math.round((color[0] + color[1] + color[2]) / 3);
    filled.data.set([...(gray ? [mean, mean, mean] : color), 255], 4 * i);
  }
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d").putImageData(filled, 0, 0);
  const png = await (await canvas.convertToBlob({ type: "image/png" })).arrayBuffer();
  postMessage({ kind: "result", number, png, seconds: (performance.now() - start) / 1000 }, [png]);
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

self.addEventListener("message", async ({ data }) => {
  try {
    await requests[data.kind](data);
  } catch (error) {
    busy = false;
    postMessage({ kind: "failed", message: error.message });
    throw error;
  }
});
