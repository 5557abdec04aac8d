// Strokes are drawn here, hard-edged and at the resolution of the photo, and sent once, when the pointer is lifted.

const STEPS = 50; // that undo goes back

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  node.setAttribute("data-lm-suppress-shortcuts", "true"); // or JupyterLab takes the keys; it asks the focused element
  for (const [name, value] of Object.entries(attributes)) {
    if (name in node && typeof value !== "string") node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

// Eight pixels a byte, the first in the highest bit, as numpy.packbits has it: the bytes of pixels from ... to.
function pack(pixels, bytes = new Uint8Array((pixels.length + 7) >> 3), from = 0, to = pixels.length) {
  for (let byte = from >> 3, i = byte << 3; i < to; byte++) {
    let value = 0;
    for (let bit = 128; bit; bit >>= 1, i++) if (pixels[i]) value |= bit;
    bytes[byte] = value;
  }
  return bytes;
}

function unpack(view, pixels) {
  for (let i = 0; i < pixels.length; i++) pixels[i] = (view.getUint8(i >> 3) >> (7 - (i & 7))) & 1;
}

function picture(model, name, image) {
  let address = null;
  const show = () => {
    if (address) URL.revokeObjectURL(address);
    const data = model.get(name);
    address = data?.byteLength ? URL.createObjectURL(new Blob([data], { type: "image/png" })) : null;
    if (address) image.src = address;
    image.hidden = !address;
  };
  show();
  return [show, () => address && URL.revokeObjectURL(address)];
}

function render({ model, el }) {
  const [height, width] = model.get("_shape");
  const pixels = new Uint8Array(height * width), bits = pack(pixels);
  const done = [], undone = []; // what a stroke changed: {left, top, wide, high, before, after}
  let erasing = false, stroke = null, mine = false, cursor = [width / 2, height / 2];

  const photo = element("img", { alt: "The photo to paint on", draggable: false });
  const canvas = element("canvas", {
    width, height, tabIndex: 0, role: "application",
    "aria-label": "Paint the holes here. Arrow keys move the brush, space paints, [ and ] change its size.",
  });
  const ring = element("div", { class: "pconv-ring", hidden: true });
  const before = element("img", { alt: "The photo before", draggable: false });
  const result = element("img", { alt: "The result", class: "pconv-result", draggable: false });
  const reveal = element("input", { type: "range", min: "0", max: "100", value: "100", "aria-label": "Before and after" });
  const status = element("span", { class: "pconv-status", role: "status" });
  const button = (label, title, act) => {
    const node = element("button", { type: "button", title }, label);
    node.addEventListener("click", act);
    return node;
  };
  const paintButton = button("Brush", "Paint holes (B)", () => choose(false));
  const eraseButton = button("Eraser", "Take holes away (E)", () => choose(true));
  const undoButton = button("Undo", "Undo (Ctrl+Z)", () => step(done, undone, "before"));
  const redoButton = button("Redo", "Redo (Ctrl+Y)", () => step(undone, done, "after"));
  const clearButton = button("Clear", "Take all holes away", clear);
  const saveButton = button("Download", "Download the result as PNG", () => {
    const whole = element("canvas", { width, height }), pen = whole.getContext("2d");
    for (const part of [before, result]) pen.drawImage(part, 0, 0);
    whole.toBlob((blob) => {
      const address = URL.createObjectURL(blob);
      element("a", { href: address, download: "result.png" }).click();
      setTimeout(() => URL.revokeObjectURL(address), 60000);
    }, "image/png");
  });
  const size = element("input", { type: "range", min: "1", max: String(Math.max(64, Math.round(width / 4))) });
  const sizeLabel = element("label", {}, "Size ", size);
  const tools = element("div", { class: "pconv-tools", role: "toolbar", "aria-label": "Mask painter" },
    paintButton, eraseButton, sizeLabel, undoButton, redoButton, clearButton, saveButton, status);
  const compared = element("div", { class: "pconv-side" },
    element("div", { class: "pconv-stage" }, before, result), reveal);
  const stage = element("div", { class: "pconv-stage pconv-paper" }, photo, canvas, ring);
  const root = element("div", { class: "pconv-painter" },
    tools, element("div", { class: "pconv-panes" }, stage, compared));
  for (const pane of [stage, compared]) pane.style.maxWidth = `min(512px, 80vh * ${width / height})`; // tall photos, too, fit
  el.append(root);

  // Draws a rectangle of the holes, and tells whoever has the painter on a page: it can follow a stroke that is not done yet.
  const context = canvas.getContext("2d");
  function draw(left = 0, top = 0, wide = width, high = height) {
    root.dispatchEvent(new CustomEvent("pconv-holes", { detail: { pixels, width, height }, bubbles: true }));
    if (wide <= 0 || high <= 0) return;
    const data = context.createImageData(wide, high), colours = new Uint32Array(data.data.buffer);
    for (let y = 0; y < high; y++)
      for (let x = 0; x < wide; x++) if (pixels[(top + y) * width + left + x]) colours[y * wide + x] = 0xd03c1296; // ABGR
    context.putImageData(data, left, top);
  }

  // Fills the pixels whose centre is at most half a brush from the line (x0, y0) - (x1, y1); returns where they are.
  function line(x0, y0, x1, y1) {
    const value = erasing || stroke?.eraser ? 0 : 1;
    const radius = model.get("brush") / 2, dx = x1 - x0, dy = y1 - y0, length = dx * dx + dy * dy;
    const left = Math.max(0, Math.floor(Math.min(x0, x1) - radius)), right = Math.min(width, Math.ceil(Math.max(x0, x1) + radius));
    const top = Math.max(0, Math.floor(Math.min(y0, y1) - radius)), bottom = Math.min(height, Math.ceil(Math.max(y0, y1) + radius));
    for (let y = top; y < bottom; y++)
      for (let x = left; x < right; x++) {
        const px = x + 0.5 - x0, py = y + 0.5 - y0;
        const along = length ? Math.min(1, Math.max(0, (px * dx + py * dy) / length)) : 0;
        if ((px - along * dx) ** 2 + (py - along * dy) ** 2 <= radius * radius) pixels[y * width + x] = value;
      }
    draw(left, top, right - left, bottom - top);
    return { left, top, right, bottom };
  }

  // Only the rows that have changed are packed anew: a large photo has many.
  function send({ top, high }) {
    pack(pixels, bits, top * width, (top + high) * width);
    mine = true;
    model.set("_bits", new DataView(bits.slice().buffer));
    model.save_changes();
    mine = false;
    refresh();
  }

  // The rectangle in which `old` and the pixels differ, with both contents, so that undo need not keep whole photos.
  function difference(old, within) {
    let left = width, right = -1, top = height, bottom = -1;
    for (let y = within.top; y < within.bottom; y++)
      for (let x = within.left, i = y * width + x; x < within.right; x++, i++)
        if (old[i] !== pixels[i]) {
          if (x < left) left = x;
          if (x > right) right = x;
          if (y < top) top = y;
          bottom = y;
        }
    if (right < 0) return null;
    const wide = right - left + 1, high = bottom - top + 1, cut = new Uint8Array(wide * high), now = cut.slice();
    for (let y = 0; y < high; y++) {
      const start = (top + y) * width + left;
      cut.set(old.subarray(start, start + wide), y * wide);
      now.set(pixels.subarray(start, start + wide), y * wide);
    }
    return { left, top, wide, high, before: pack(cut), after: pack(now) };
  }

  // What a stroke, or a key, has changed within a rectangle becomes a step that can be undone, and is sent.
  function finish(old, within) {
    const step = difference(old, within);
    if (!step) return;
    done.push(step);
    if (done.length > STEPS) done.shift();
    undone.length = 0;
    send(step);
  }

  function clear() {
    if (stroke) return;
    const old = pixels.slice();
    pixels.fill(0);
    finish(old, { left: 0, top: 0, right: width, bottom: height });
    draw();
  }

  function dab() {
    const old = pixels.slice();
    finish(old, line(...cursor, ...cursor));
  }

  function step(from, to, which) {
    const last = stroke ? null : from.pop();
    if (!last) return;
    const cut = new Uint8Array(last.wide * last.high);
    unpack(new DataView(last[which].buffer), cut);
    for (let y = 0; y < last.high; y++)
      pixels.set(cut.subarray(y * last.wide, (y + 1) * last.wide), (last.top + y) * width + last.left);
    to.push(last);
    draw(last.left, last.top, last.wide, last.high);
    send(last);
  }

  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) * width) / box.width, ((event.clientY - box.top) * height) / box.height];
  };
  function showRing() {
    const scale = canvas.getBoundingClientRect().width / width, diameter = model.get("brush") * scale;
    Object.assign(ring.style, { width: `${diameter}px`, height: `${diameter}px`,
      left: `${cursor[0] * scale - diameter / 2}px`, top: `${cursor[1] * scale - diameter / 2}px` });
    ring.hidden = false;
  }
  function disable(node, off) {
    if (off && node === root.getRootNode().activeElement) canvas.focus({ preventScroll: true }); // or the focus is lost
    node.disabled = off;
  }
  function refresh() {
    paintButton.setAttribute("aria-pressed", String(!erasing));
    eraseButton.setAttribute("aria-pressed", String(erasing));
    disable(undoButton, !done.length);
    disable(redoButton, !undone.length);
    disable(saveButton, result.hidden);
    size.value = model.get("brush");
    if (!stroke) compared.hidden = result.hidden; // the photo must not change its size under the brush
    if (!ring.hidden) showRing();
    status.textContent = model.get("_status");
  }
  const choose = (eraser) => { erasing = eraser; refresh(); };
  function resize(brush) {
    model.set("brush", Math.max(1, Math.min(Number(size.max), Math.round(brush))));
    model.save_changes();
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (stroke || ![0, 5].includes(event.button)) return; // 5: the eraser end of a pen
    event.preventDefault();
    cursor = place(event);
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    stroke = { id: event.pointerId, eraser: event.button === 5, old: pixels.slice(), at: cursor };
    stroke.within = line(...stroke.at, ...stroke.at);
  });
  canvas.addEventListener("pointermove", (event) => {
    cursor = place(event);
    showRing();
    if (stroke?.id !== event.pointerId) return;
    for (const moved of event.getCoalescedEvents?.() ?? [event]) {
      const to = place(moved);
      const part = line(...stroke.at, ...to), { within } = stroke;
      for (const side of ["left", "top"]) within[side] = Math.min(within[side], part[side]);
      for (const side of ["right", "bottom"]) within[side] = Math.max(within[side], part[side]);
      stroke.at = to;
    }
  });
  const lift = (event) => {
    if (stroke?.id !== event.pointerId) return;
    const { old, within } = stroke;
    stroke = null;
    finish(old, within);
    refresh();
  };
  canvas.addEventListener("pointerup", lift);
  canvas.addEventListener("pointercancel", lift);
  canvas.addEventListener("pointerleave", () => (ring.hidden = true));
  canvas.addEventListener("focus", showRing);
  canvas.addEventListener("blur", () => (ring.hidden = true));
  size.addEventListener("input", () => resize(Number(size.value)));
  reveal.addEventListener("input", () => (result.style.clipPath = `inset(0 ${100 - reveal.value}% 0 0)`));
  root.addEventListener("keydown", (event) => {
    const key = event.key.toLowerCase(), brush = model.get("brush"), control = event.ctrlKey || event.metaKey;
    const move = { arrowleft: [-1, 0], arrowright: [1, 0], arrowup: [0, -1], arrowdown: [0, 1] }[key];
    if (control && key === "z") step(...(event.shiftKey ? [undone, done, "after"] : [done, undone, "before"]));
    else if (control && key === "y") step(undone, done, "after");
    else if (control || event.altKey) return;
    else if (key === "[" || key === "]") resize(key === "[" ? Math.min(brush - 1, brush / 1.2) : Math.max(brush + 1, brush * 1.2));
    else if (key === "b" || key === "e") choose(key === "e");
    else if (event.target === canvas && move) {
      cursor = cursor.map((at, axis) => Math.max(0, Math.min([width, height][axis], at + (move[axis] * brush) / 2)));
      showRing();
    } else if (event.target === canvas && key === " ") dab();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });

  const [, freePhoto] = picture(model, "_photo", photo);
  const [, freeBefore] = picture(model, "_photo", before);
  const [showResult, freeResult] = picture(model, "_result", result);
  const load = () => {
    if (mine) return;
    unpack(model.get("_bits"), pixels);
    pack(pixels, bits);
    done.length = undone.length = 0;
    draw();
    refresh();
  };
  const changes = {
    "change:_bits": load,
    "change:_result": () => { showResult(); refresh(); },
    "change:_status": refresh,
    "change:brush": refresh,
  };
  for (const [name, act] of Object.entries(changes)) model.on(name, act);
  load();
  return () => {
    for (const [name, act] of Object.entries(changes)) model.off(name, act);
    for (const free of [freePhoto, freeBefore, freeResult]) free();
  };
}

export default { render };
