// ONNX Runtime, for both workers.

import * as ort from "./ort.wasm.min.mjs";

ort.env.wasm.wasmPaths = new URL("./", import.meta.url).href;

async function unpack(packed) {
  const start = new Uint8Array(await packed.slice(0, 2).arrayBuffer());
  const gzipped = start[0] === 0x1f && start[1] === 0x8b; // some servers have the browser unpack it
  const bytes = gzipped ? packed.stream().pipeThrough(new DecompressionStream("gzip")) : packed.stream();
  return new Uint8Array(await new Response(bytes).arrayBuffer());
}

// network: a Blob, what `pconv export` wrote, gzipped; runtime: a Blob, ONNX Runtime's WebAssembly.
export async function startNetwork({ network, runtime, threads }) {
  ort.env.wasm.wasmBinary = await runtime.arrayBuffer();
  ort.env.wasm.numThreads = threads;
  return ort.InferenceSession.create(await unpack(network), { executionProviders: ["wasm"] });
}

// So that an error in a promise reaches the page, too: as the worker's error event.
self.addEventListener("unhandledrejection", ({ reason }) =>
  setTimeout(() => {
    throw reason;
  }),
);

export { ort };
