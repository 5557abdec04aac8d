// The Try page: the painter of the notebooks on a photo, what the network makes of it, and its masks.

import painter from "./painter.js";
import { fetchFile, fetchFiles } from "./download.js";
import { element } from "./element.js";
import { State } from "./state.js";
import { drawStrip } from "./strip.js";

const SIDE = 384; // pixels of the longer side of a photo

const photos = element("div", { className: "try-photos" });
const network = element("p", { className: "try-network", role: "status" });
const problem = element("p", { className: "try-problem", role: "alert", hidden: true });
const stage = element("div", { id: "try-painter" });
const strip = element("div", { id: "try-strip" });

function tell(text) {
  if (phase !== "failed") network.textContent = text;
}

function complain(text) {
  problem.textContent = text.replace(/\.*$/, ".");
  problem.hidden = !text;
}

// What this browser does not have, in words; the page needs all of it.
function findMissing() {
  // A module with one SIMD instruction.
  const simd = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];
  const needed = {
    WebAssembly: typeof WebAssembly === "object",
    "WebAssembly with SIMD": typeof WebAssembly === "object" && WebAssembly.validate(new Uint8Array(simd)),
    "background workers": typeof Worker === "function",
    "a canvas in the background (OffscreenCanvas)": typeof OffscreenCanvas === "function",
    "unpacking of compressed files (DecompressionStream)": typeof DecompressionStream === "function",
  };
  return Object.keys(needed).filter((name) => !needed[name]);
}

// Threads share memory, which a browser allows only on pages that are isolated from others. Where the server does not
// ask for that, a service worker does, from the second load on. Returns whether the page is about to be loaded again.
async function isolate() {
  if (window.crossOriginIsolated || !navigator.serviceWorker || history.state?.isolating) return false;
  history.replaceState({ isolating: true }, ""); // once: some browsers ignore it
  const installed = navigator.serviceWorker.register("isolate.js").then(
    () => navigator.serviceWorker.ready,
    (error) => console.info(`no service worker: ${error.message}`), // switched off, say
  );
  const late = new Promise((resolve) => setTimeout(resolve, 3000));
  if (!(await Promise.race([installed, late]))) return false;
  window.location.reload();
  return true;
}

// The network ------------------------------------------------------------------------------------------------------------

const state = new State();
let filler = null, tracer = null; // workers
let phase = "loading"; // then "ready", or "failed"
let strokes = 0;
let painted = null; // {pixels: 1 in a hole, width, height}, which the painter changes in place
let tracing = false, traced = true; // whether the strip shows them

function fill() {
  strokes += 1;
  state.set("_status", { loading: "waiting for the network …", ready: "filling …", failed: "" }[phase]);
  filler.postMessage({ kind: "fill", number: strokes, holes: painted.pixels.slice() });
}

const answers = {
  ready({ threads }) {
    if (phase === "failed") return;
    phase = "ready";
    if (state.get("_status")) state.set("_status", "filling …");
    let speed = `${threads} threads`;
    if (threads === 1) speed = window.crossOriginIsolated ? "one thread" : "one thread, as this browser lets it have no more: slower";
    tell(`The network runs in your browser, with ${speed}.`);
  },
  result({ number, png, seconds, problem }) {
    if (number !== strokes) return; // there is a newer one
    state.set("_result", png);
    state.set("_status", problem ?? `${seconds.toFixed(2)} s`);
  },
};

// The masks follow while a stroke is drawn, as fast as they can.
function trace() {
  if (tracing || traced) return;
  tracing = traced = true;
  const { pixels, width, height } = painted;
  tracer.postMessage({ kind: "trace", width, height, holes: pixels.slice() });
}

function showMasks({ masks, share }) {
  drawStrip(strip, masks, share);
  tracing = false;
  trace();
}

function fail(reason) {
  state.set("_status", "");
  tell(`The network stopped: ${reason.replace(/\.*$/, "")}. Load the page again.`);
  phase = "failed";
  network.classList.add("try-problem");
}

function startWorker(file, answer) {
  const worker = new Worker(file, { type: "module" });
  worker.addEventListener("message", ({ data }) => answer(data));
  worker.addEventListener("error", ({ message }) => fail(message ?? `${file} is missing`));
  return worker;
}

async function startNetworks(sizes) {
  const threads = window.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
  const report = (share) => tell(`Fetching the network: ${Math.round(100 * share)} %`);
  const files = await fetchFiles(sizes, report);
  tell("Starting the network …");
  const runtime = files["ort-wasm-simd-threaded.wasm"];
  tracer.postMessage({ kind: "load", network: files["masks.onnx.gz"], runtime, threads: 1 });
  filler.postMessage({ kind: "load", network: files["fill.onnx.gz"], runtime, threads });
}

// Photos -----------------------------------------------------------------------------------------------------------------

let stop = () => {}; // the painter
let chosen = 0;

// The photo as the painter takes it: at most SIDE pixels high and wide, upright, on white.
async function draw(blob) {
  const bitmap = await createImageBitmap(blob, { imageOrientation: "from-image" });
  const scale = Math.min(1, SIDE / Math.max(bitmap.width, bitmap.height));
  const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * scale)));
  const canvas = element("canvas", { width, height }), pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.fillStyle = "white";
  pen.fillRect(0, 0, width, height);
  pen.drawImage(bitmap, 0, 0, width, height);
  const png = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  return { width, height, pixels: pen.getImageData(0, 0, width, height).data, png: await png.arrayBuffer() };
}

// Starts the painter on a photo. load: returns its Blob; bits: the holes to begin with, or none; button: what was pressed.
async function choose(load, bits = null, button = null) {
  const turn = ++chosen;
  complain("");
  const { width, height, pixels, png } = await draw(await load());
  if (turn !== chosen) return; // another photo was chosen meanwhile
  for (const other of photos.querySelectorAll("button")) other.setAttribute("aria-pressed", String(other === button));
  filler.postMessage({ kind: "photo", width, height, pixels });
  stop();
  stage.replaceChildren();
  state.start({
    _photo: new DataView(png),
    _shape: [height, width],
    _bits: new DataView((bits ?? new Uint8Array((height * width + 7) >> 3)).buffer),
    _result: null,
    _status: "",
    brush: state.get("brush") ?? 24,
  });
  stop = painter.render({ model: state, el: stage });
  state.on("change:_bits", fill);
  fill();
}

// A button per bundled photo, and the reader's own file.
function offerPhotos(bundled) {
  for (const { file, alt, holes } of bundled) {
    const button = element("button", { type: "button", title: alt }, element("img", { src: file, alt }));
    const bits = Uint8Array.from(atob(holes), (letter) => letter.charCodeAt(0));
    const load = async () => (await fetchFile(file)).blob();
    button.addEventListener("click", () => choose(load, bits.slice(), button));
    photos.append(button);
  }
  const own = element("input", { type: "file", accept: "image/*", id: "try-own" });
  own.addEventListener("click", () => (own.value = "")); // so that the same file can be chosen again
  own.addEventListener("change", async () => {
    const [file] = own.files;
    if (!file) return;
    try {
      await choose(() => file);
    } catch (error) {
      if (error.name !== "InvalidStateError" && error.name !== "EncodingError") throw error;
      complain(`${file.name}: this browser cannot read it. JPEG, PNG and WebP work everywhere`);
    }
  });
  photos.append(element("label", { htmlFor: "try-own", className: "try-own" }, "Your own photo", own));
  photos.querySelector("button").click();
}

async function main() {
  document.getElementById("try").append(photos, network, problem, stage, strip);
  const missing = findMissing();
  if (missing.length) return complain(`This browser lacks ${missing.join(", ")}. A current Chrome, Edge, Firefox or Safari has it`);
  tell("Starting …");
  if (await isolate()) return;
  tracer = startWorker("masks.js", showMasks);
  filler = startWorker("fill.js", (answer) => answers[answer.kind](answer));
  const contents = await (await fetchFile("contents.json")).json();
  offerPhotos(contents.photos);
  await startNetworks(contents.sizes).catch(({ message }) => fail(message));
}

stage.addEventListener("pconv-holes", ({ detail }) => {
  painted = detail;
  traced = false;
  trace();
});
window.addEventListener("unhandledrejection", ({ reason }) => complain(`Something failed: ${reason.message}`));
main();
