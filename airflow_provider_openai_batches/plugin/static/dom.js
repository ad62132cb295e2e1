// The only place that creates elements. Text is inserted as text, never as markup.

/**
 * @param {string} tag name, with classes after dots: "span.badge.quiet"
 * @param {Object} [attributes] "on…" adds a listener; null, undefined and false leave an attribute out
 * @param {...(Node|string|number|null|undefined|false)} children
 */
export function el(tag, attributes = {}, ...children) {
  return made((name) => document.createElement(name), tag, attributes, children);
}

/** The same, for a part of a drawing. */
export function svg(tag, attributes = {}, ...children) {
  return made((name) => document.createElementNS("http://www.w3.org/2000/svg", name), tag, attributes, children);
}

function made(create, tag, attributes, children) {
  const [name, ...classes] = tag.split(".");
  const element = create(name);
  if (classes.length) element.classList.add(...classes);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Text that this page did not write; isolated, so that its writing direction changes nothing around it. */
export function foreign(text) {
  return el("bdi", {}, String(text));
}

export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Say something to those who do not see the page. */
export function announce(text) {
  setText(byId("said"), text);
}

export const byId = (id) => document.getElementById(id);
