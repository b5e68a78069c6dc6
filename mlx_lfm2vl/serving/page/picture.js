// Pictures with what is drawn over them: the tiles that the model sees, boxes, and a point.

import { find, make, number } from "./dom.js";
import { pictureUrl, viewsInWords } from "./images.js";

const COLORS = 6; // of boxes, as the style has them; each label keeps one

/**
 * A picture with boxes and a point over it.
 * @param {Object} marks `boxes`: {label, pixels: [left, top, right, bottom]} of each;
 *   `point`: {x, y} in pixels, or undefined.
 */
export function markedPicture(image, { boxes = [], point }) {
  const labels = [...new Set(boxes.map((box) => box.label))];
  const layer = make("div.marks", { "aria-hidden": "true" });
  boxes.forEach((box, index) => {
    const name = make("span.label", {}, box.label || `${index + 1}`);
    layer.append(
      place(
        make(`div.box.color${labels.indexOf(box.label) % COLORS}`, {}, name),
        image,
        box.pixels,
      ),
    );
  });
  if (point) layer.append(place(make("div.point"), image, [point.x, point.y, point.x, point.y]));
  const names = boxes.map((box) => box.label).join(", ");
  const alt = [
    image.name,
    boxes.length && `with boxes: ${names}`,
    point && `with a point at ${point.x}, ${point.y}`,
  ];
  const figure = make(
    "figure.picture",
    {},
    make("img", { src: pictureUrl(image), alt: alt.filter(Boolean).join(", ") }),
    layer,
  );
  figure.style.setProperty("--width", `${image.width}px`);
  figure.style.setProperty("--ratio", String(image.width / image.height));
  return figure;
}

/** A small picture that opens a large one. */
export const smallPicture = (image) =>
  make(
    "button.thumbnail",
    { type: "button", "aria-label": `Show ${image.name}`, click: () => showLarge(image) },
    make("img", { src: pictureUrl(image), alt: "" }),
  );

/** Show a picture large, with the grid of its tiles and what it costs. */
function showLarge(image) {
  const figure = markedPicture(image, {});
  if (image.plan) figure.lastChild.append(...gridLines(image.plan.grid));
  const lines = [`${number(image.width)} × ${number(image.height)} pixels`];
  if (image.plan) lines.push(viewsInWords(image.plan), `${number(image.plan.tokens)} tokens`);
  if (image.plan?.note) lines.push(image.plan.note);
  find("large-name").textContent = image.name;
  find("large-facts").textContent = lines.join(" · ");
  find("large-picture").replaceChildren(figure);
  find("large").showModal();
}

/** Lines between the tiles. */
function gridLines([rows, columns]) {
  const across = [...Array(rows - 1).keys()].map((index) => line("row", "top", (index + 1) / rows));
  const down = [...Array(columns - 1).keys()].map((index) =>
    line("column", "left", (index + 1) / columns),
  );
  return [...across, ...down];
}

function line(kind, side, part) {
  const node = make(`div.${kind}`);
  node.style[side] = `${100 * part}%`;
  return node;
}

/** Put an element over a picture. */
function place(node, { width, height }, [left, top, right, bottom]) {
  node.style.left = `${(100 * left) / width}%`;
  node.style.top = `${(100 * top) / height}%`;
  node.style.width = `${(100 * (right - left)) / width}%`;
  node.style.height = `${(100 * (bottom - top)) / height}%`;
  // Where there is no room for a label above or to the right, it goes inside or to the left.
  node.classList.toggle("high", top < height / 12);
  node.classList.toggle("far", left > 0.6 * width);
  return node;
}
