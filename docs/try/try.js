// The Try page: the painter of the notebooks on a photo, what the network makes of it, and its masks.

import painter from "./painter.js";
import { State } from "./state.js";
import { drawStrip } from "./strip.js";

const SIDE = 384; // pixels of the longer side of a photo
const page = document.getElementById("try");
const own = element("input", { type: "file", accept: "image/*", id: "try-own" });
const photos = element("div", { className: "try-photos" });
const status = element("p", { className: "try-status" });
status.setAttribute("role", "status");
const stage = element("div", { id: "try-painter" });
const strip = element("div", { id: "try-strip" });

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
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
  if (window.crossOriginIsolated || !navigator.serviceWorker || sessionStorage.getItem("try-isolated")) return false;
  sessionStorage.setItem("try-isolated", "asked for"); // once: some browsers ignore it
  const installed = navigator.serviceWorker.register("isolate.js").then(
    () => navigator.serviceWorker.ready,
    (error) => console.info(`no service worker: ${error.message}`), // switched off, say
  );
  const late = new Promise((resolve) => setTimeout(resolve, 3000));
  if (!(await Promise.race([installed, late]))) return false;
  window.location.reload();
  return true;
}

const state = new State();
let filler = null, tracer = null; // workers
let stop = () => {}, strokes = 0, shown = 0;
let tracing = false, changed = null; // holes whose masks are not drawn yet

// Starts the painter on a photo, with holes as bits, or with none.
async function show(blob, bits = null) {
  const turn = ++shown;
  const bitmap = await createImageBitmap(blob, { imageOrientation: "from-image" });
  const scale = Math.min(1, SIDE / Math.max(bitmap.width, bitmap.height));
  const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * scale)));
  const canvas = element("canvas", { width, height }), pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.fillStyle = "white"; // behind what is transparent
  pen.fillRect(0, 0, width, height);
  pen.drawImage(bitmap, 0, 0, width, height);
  const png = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  const bytes = await png.arrayBuffer();
  if (turn !== shown) return; // another photo was chosen meanwhile
  filler.postMessage({ kind: "photo", width, height, pixels: pen.getImageData(0, 0, width, height).data });
  stop();
  stage.replaceChildren();
  state.start({
    _photo: new DataView(bytes),
    _shape: [height, width],
    _bits: new DataView((bits ?? new Uint8Array((height * width + 7) >> 3)).buffer),
    _result: null,
    _status: "",
    brush: 24,
  });
  stop = painter.render({ model: state, el: stage });
  state.on("change:_bits", fill);
  fill();
}

function fill() {
  strokes += 1;
  state.set("_status", "filling …");
  filler.postMessage({ kind: "fill", number: strokes, bits: new Uint8Array(state.get("_bits").buffer) });
}

// The masks follow while a stroke is drawn, as fast as they can.
function trace() {
  if (tracing || !changed) return;
  tracing = true;
  tracer.postMessage({ ...changed, kind: "trace", holes: changed.holes.slice() });
  changed = null;
}

stage.addEventListener("pconv-holes", ({ detail: { pixels, width, height } }) => {
  changed = { width, height, holes: pixels };
  trace();
});

function showMasks({ masks, painted }) {
  drawStrip(strip, masks, painted);
  tracing = false;
  trace();
}

const answers = {
  loading: ({ share }) => (status.textContent = `Fetching the network: ${Math.round(100 * share)} %`),
  ready: ({ threads }) =>
    (status.textContent =
      threads > 1
        ? `The network runs in your browser, with ${threads} threads.`
        : "The network runs in your browser, with one thread: here a fill takes about twice as long as it could."),
  result({ number, png, seconds, problem }) {
    if (number !== strokes) return; // there is a newer one
    state.set("_result", png);
    state.set("_status", problem ?? `${seconds.toFixed(2)} s`);
  },
};

function complain(text) {
  status.textContent = text;
  status.classList.add("try-problem");
}

async function download(name) {
  const response = await fetch(name);
  if (!response.ok) throw new Error(`${name}: ${response.status} ${response.statusText}`);
  return response;
}

// A row of buttons, one per bundled photo, and the reader's own file.
async function offerPhotos() {
  const bundled = await (await download("photos.json")).json();
  const choose = async (button, ...given) => {
    for (const other of photos.querySelectorAll("button")) other.setAttribute("aria-pressed", String(other === button));
    status.classList.remove("try-problem");
    await show(...given);
  };
  for (const { file, alt, holes } of bundled) {
    const button = element("button", { type: "button", title: alt }, element("img", { src: file, alt }));
    const bits = Uint8Array.from(atob(holes), (letter) => letter.charCodeAt(0));
    button.addEventListener("click", async () => choose(button, await (await download(file)).blob(), bits.slice()));
    photos.append(button);
  }
  own.addEventListener("change", async () => {
    const [file] = own.files;
    if (!file) return;
    try {
      await choose(null, file);
    } catch (error) {
      if (error.name !== "InvalidStateError" && error.name !== "EncodingError") throw error;
      complain(`${file.name}: this browser cannot read it. JPEG, PNG and WebP work everywhere.`);
    }
  });
  photos.append(element("label", { htmlFor: "try-own", className: "try-own" }, "Your own photo", own));
  photos.querySelector("button").click();
}

function startWorker(file, answer) {
  const worker = new Worker(file, { type: "module" });
  worker.addEventListener("message", ({ data }) => answer(data));
  worker.addEventListener("error", ({ message }) => {
    state.set("_status", "");
    complain(`The network stopped: ${message ?? `${file} is missing`}. Load the page again.`);
  });
  return worker;
}

async function main() {
  page.append(photos, status, stage, strip);
  const missing = findMissing();
  if (missing.length) return complain(`This browser lacks ${missing.join(", ")}. A current Chrome, Edge, Firefox or Safari has it.`);
  status.textContent = "Starting …";
  if (await isolate()) return;
  tracer = startWorker("masks.js", showMasks);
  filler = startWorker("fill.js", (answer) => answers[answer.kind](answer));
  await offerPhotos();
  const runtime = await (await download("ort-wasm-simd-threaded.wasm")).arrayBuffer();
  const threads = window.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
  tracer.postMessage({ kind: "load", runtime, threads: 1 });
  filler.postMessage({ kind: "load", runtime, threads });
}

window.addEventListener("unhandledrejection", ({ reason }) => complain(`Something failed: ${reason.message}.`));
main();
