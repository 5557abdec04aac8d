// Fetches files side by side, and says how far they are.

export async function fetchFile(name) {
  const response = await fetch(name);
  if (!response.ok) throw new Error(`${name}: ${response.status} ${response.statusText}`);
  return response;
}

// sizes: {name of a file: its bytes}; onProgress is given the share of all that is there, from 0 to 1.
// Returns {name: Blob}.
export async function fetchFiles(sizes, onProgress) {
  const names = Object.keys(sizes), total = names.reduce((sum, name) => sum + sizes[name], 0);
  let seen = 0;
  async function read(name) {
    const parts = [];
    for (const reader = (await fetchFile(name)).body.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) return [name, new Blob(parts)];
      parts.push(value);
      seen += value.length;
      onProgress(Math.min(1, seen / total));
    }
  }
  return Object.fromEntries(await Promise.all(names.map(read)));
}
