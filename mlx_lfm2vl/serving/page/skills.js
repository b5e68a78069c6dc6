// The skills: what each asks the reader for, and how its typed answer is shown.

import { make, number } from "./dom.js";
import { sentence } from "./api.js";
import { codeBlock, showMarkdown } from "./markdown.js";
import { markedPicture } from "./picture.js";

const lines = (text) =>
  text
    .split(/\n/)
    .map((line) => line.trim())
    .filter(Boolean);
const words = (text) =>
  text
    .split(/[,\n]/)
    .map((word) => word.trim())
    .filter(Boolean);

/**
 * By name, in the order of the buttons:
 * - `title`: on the button;
 * - `hint`: in the empty field for its text; none if it takes no text;
 * - `needs`: whether it must have text; `least`: images, 1 if not given;
 * - `options`: names with their values, the usual one first;
 * - `read`: the fields of the request that the text stands for;
 * - `show`: the elements of an answer; `text`: the answer in words, for the turns after it.
 */
export const SKILLS = {
  caption: {
    title: "Caption",
    options: { length: ["normal", "short", "detailed", "alt"] },
    show: (answer) => [prose(answer.text)],
    text: (answer) => answer.text,
  },
  ocr: {
    title: "Read text",
    options: { form: ["text", "markdown"] },
    show: (answer) => [answer.form === "markdown" ? markdown(answer.text) : prose(answer.text)],
    text: (answer) => answer.text,
  },
  detect: {
    title: "Detect",
    hint: "What to find, such as “ships, people”. Empty finds everything.",
    read: (text) => (text ? { target: words(text) } : {}),
    show: showBoxes,
    text: (answer) => boxesInWords(answer.boxes),
  },
  point: {
    title: "Point",
    hint: "What to point at, such as “the search button”",
    needs: true,
    options: { surface: ["app", "web", "photo"] },
    read: (text) => ({ target: text }),
    show: showPoint,
    text: (answer) =>
      answer.x === null ? "There is no such place." : `At ${answer.x}, ${answer.y}.`,
  },
  classify: {
    title: "Classify",
    hint: "The labels to choose from, such as “invoice, receipt, letter”",
    needs: true,
    read: (text) => ({ labels: words(text) }),
    show: showChoice,
    text: (answer) => answer.choice,
  },
  extract: {
    title: "Extract",
    hint: "A field in each line, such as “total: the amount to pay”",
    needs: true,
    takesSchema: true,
    read: (text) => ({ fields: lines(text) }),
    show: (answer) => [showValues(answer.values)],
    text: (answer) => JSON.stringify(answer.values, null, 2),
  },
  keywords: {
    title: "Keywords",
    options: { count: [15, 5, 30] },
    show: (answer) => [
      make("ul.keywords", {}, ...answer.keywords.map((word) => make("li", {}, word))),
    ],
    text: (answer) => answer.keywords.join(", "),
  },
  compare: {
    title: "Compare",
    least: 2,
    show: (answer) => [prose(answer.text)],
    text: (answer) => answer.text,
  },
  layout: {
    title: "Layout",
    show: showLayout,
    text: (answer) => answer.markdown,
  },
};

/** The elements of the typed answers: one about all images, or one for each. */
export function showTyped(mode, answers, images) {
  if (answers.length === 1) return showOne(mode, answers[0], images);
  return answers.map((answer, index) =>
    make(
      "section.part",
      {},
      make("h3", {}, images[index].name),
      ...showOne(mode, answer, [images[index]]),
    ),
  );
}

/** The typed answers in words. */
export const typedText = (mode, answers) =>
  answers
    .filter((answer) => !answer.error)
    .map((answer) => SKILLS[mode].text(answer))
    .join("\n\n");

const showOne = (mode, answer, images) =>
  answer.error
    ? [make("p.problem", {}, sentence(answer.error.message))]
    : SKILLS[mode].show(answer, images);

const prose = (text) => make("div.plain", {}, text);

function markdown(text) {
  const node = make("div.markdown");
  showMarkdown(node, text);
  return node;
}

function boxesInWords(boxes) {
  const each = boxes.map((box) => `${box.label || "a thing"} at ${box.pixels.join(", ")}`);
  return each.length ? `${each.join("; ")}.` : "Nothing was found.";
}

function showBoxes({ boxes }, images) {
  const pictures = images.map((image, index) =>
    markedPicture(image, { boxes: boxes.filter((box) => box.image === index) }),
  );
  if (!boxes.length) return [...pictures, prose("Nothing was found.")];
  const items = boxes.map((box) => {
    const [left, top, right, bottom] = box.pixels;
    return make(
      "li",
      {},
      box.label || "a thing",
      make("span.place", {}, ` ${left}, ${top} – ${right}, ${bottom}`),
    );
  });
  return [...pictures, make("ol.boxes", { "aria-label": "Boxes" }, ...items)];
}

function showPoint({ x, y, box }, [image]) {
  if (x === null) return [prose("There is no such place in the picture.")];
  return [markedPicture(image, { boxes: box ? [box] : [], point: { x, y } }), prose(`${x}, ${y}`)];
}

function showChoice({ choice, probabilities }) {
  if (!probabilities) return [prose(choice)];
  const rows = Object.entries(probabilities)
    .sort((a, b) => b[1] - a[1])
    .map(([label, part]) => [
      make("dt", {}, label),
      make(
        "dd",
        {},
        make("meter", { value: part, "aria-label": label }),
        ` ${number(100 * part, 1)} %`,
      ),
    ]);
  return [make("p.choice", {}, choice), make("dl.chances", {}, ...rows.flat())];
}

/** Values as a list of names and texts; what is nested stays JSON. */
function showValues(values) {
  const rows = Object.entries(values).map(([name, value]) => [
    make("dt", {}, name),
    make("dd", {}, shown(value)),
  ]);
  return make("dl.values", {}, ...rows.flat());
}

function shown(value) {
  if (value === null || value === undefined) return make("span.none", {}, "none");
  return typeof value === "object"
    ? codeBlock(JSON.stringify(value, null, 2), "JSON")
    : String(value);
}

function showLayout({ regions, markdown: text }, images) {
  const pictures = images.map((image, index) =>
    markedPicture(image, {
      boxes: regions.filter((region) => region.image === index && region.pixels),
    }),
  );
  return [...pictures, markdown(text)];
}
