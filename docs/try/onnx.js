// ONNX Runtime and the networks: what both workers need.

import * as ort from "./ort.wasm.min.mjs";

ort.env.wasm.wasmPaths = new URL("./", import.meta.url).href;

async function download(name, onProgress) {
  const response = await fetch(new URL(name, import.meta.url));
  if (!response.ok) throw new Error(`${name}: ${response.status} ${response.statusText}`);
  const total = Number(response.headers.get("Content-Length")), parts = [];
  let seen = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    seen += value.length;
    onProgress(total ? Math.min(1, seen / total) : 0);
  }
  return new Blob(parts);
}

async function unpack(packed) {
  const start = new Uint8Array(await packed.slice(0, 2).arrayBuffer());
  const gzipped = start[0] === 0x1f && start[1] === 0x8b; // some servers have the browser unpack it
  const bytes = gzipped ? packed.stream().pipeThrough(new DecompressionStream("gzip")) : packed.stream();
  return new Uint8Array(await new Response(bytes).arrayBuffer());
}

// name: of a file that `pconv export` wrote, gzipped; runtime: ONNX Runtime's WebAssembly, which the page has fetched for
// both workers; onProgress is given the share of the file that is there, from 0 to 1.
export async function startNetwork(name, { runtime, threads }, onProgress = () => {}) {
  ort.env.wasm.wasmBinary = runtime;
  ort.env.wasm.numThreads = threads;
  const bytes = await unpack(await download(name, onProgress));
  return ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
}

// So that an error in a promise reaches the page, too: as the worker's error event.
self.addEventListener("unhandledrejection", ({ reason }) =>
  setTimeout(() => {
    throw reason;
  }),
);

export { ort };
