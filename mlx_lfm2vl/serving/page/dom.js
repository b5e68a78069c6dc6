// Building elements. Text becomes text, so nothing that a model writes is ever read as HTML.

const SVG = "http://www.w3.org/2000/svg";

/**
 * Make an element.
 * @param {string} tag such as "button", with classes after dots: "div.card".
 * @param {Object} given attributes; a boolean sets or leaves out, a function listens to an event,
 *   and undefined is left out.
 * @param {...(Node|string)} children inside, in order; strings become text.
 */
export function make(tag, given = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const node = document.createElement(name);
  if (classes.length) node.classList.add(...classes);
  for (const [key, value] of Object.entries(given)) {
    if (typeof value === "function") node.addEventListener(key, value);
    else if (typeof value === "boolean") node.toggleAttribute(key, value);
    else if (value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

/** Whether a key belongs to an input method. Safari ends the composition before its last key. */
export const isComposing = (event) => event.isComposing || event.keyCode === 229;

/** The element of the page that has an id. */
export const find = (id) => document.getElementById(id);

/** A drawing from the table of icons in the page; it is decoration, and has no name. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.classList.add("icon");
  svg.setAttribute("aria-hidden", "true");
  svg.append(document.createElementNS(SVG, "use"));
  svg.firstChild.setAttribute("href", `#icon-${name}`);
  return svg;
}

/** A button that shows an icon, with a name for those who do not see it. */
export const iconButton = (name, label, onClick) =>
  make(
    "button.quiet",
    { type: "button", "aria-label": label, title: label, click: onClick },
    icon(name),
  );

/** A number with the separators of the reader's language. */
export const number = (value, digits = 0) =>
  value.toLocaleString(undefined, { maximumFractionDigits: digits, minimumFractionDigits: digits });

/** A count with its noun: "1 token", "1,024 tokens". */
export const counted = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;

/** Seconds as a person says them: "85 ms", "2.4 s", "1 min 5 s". */
export function duration(seconds) {
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${number(seconds, 1)} s`;
  return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}
