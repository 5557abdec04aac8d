// A DOM element with these properties, such as {className: "try-row"}, and children.
export function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}
