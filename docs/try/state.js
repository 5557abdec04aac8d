// What the painter reads and writes: in a notebook a model that anywidget shares with Python, here a plain object.

export class State {
  #values = {};
  #listeners = new Map(); // of one event each

  start(values) {
    this.#values = values;
    this.#listeners.clear();
  }

  get(name) {
    return this.#values[name];
  }

  set(name, value) {
    if (this.#values[name] === value) return;
    this.#values[name] = value;
    for (const listener of this.#listeners.get(`change:${name}`) ?? []) listener();
  }

  save_changes() {} // nobody else is to know

  on(event, listener) {
    if (!this.#listeners.has(event)) this.#listeners.set(event, new Set());
    this.#listeners.get(event).add(listener);
  }

  off(event, listener) {
    this.#listeners.get(event)?.delete(listener);
  }
}
