// The images of the question that is written: files are added to them, and their cost is shown.

import { counted, find, iconButton, make, number } from "./dom.js";
import { RequestError } from "./api.js";
import { isAsked, notice } from "./dialogs.js";
import { imagesOf, planImage, viewsInWords } from "./images.js";
import { excess, limits } from "./limits.js";
import { smallPicture } from "./picture.js";

const MOST_PROBLEMS = 5; // of files, that are told one by one
const draft = { images: [], reading: 0, read: Promise.resolve(true) };
let heard = { imageFields: () => ({}), allSent: (images) => images, removed() {} };

/**
 * Take files that are chosen, pasted or dropped.
 * @param {Object} actions
 * @param {function} actions.imageFields returns the model and image options of a request.
 * @param {function} actions.allSent takes the images of the question, and returns all those that
 *   are sent with it.
 * @param {function} actions.removed called when the reader has taken an image away.
 */
export function startAttachments(actions) {
  heard = actions;
  for (const id of ["add", "welcome-add"])
    find(id).addEventListener("click", () => find("files").click());
  find("files").addEventListener("change", async ({ target }) => {
    await addFiles([...target.files]);
    target.value = ""; // so that the same file can be chosen again
  });
  document.addEventListener("paste", (event) => {
    if (!isText(event.clipboardData)) takeFiles(event, event.clipboardData);
  });
  startDropping();
}

/** The images of the question, in order. */
export const draftImages = () => [...draft.images];

/** Let the question have other images. */
export function setImages(images) {
  draft.images = [...images];
  showImages();
}

/** Wait for the files that are read now; returns whether all could be read. */
export const allRead = async () => !isReading() || draft.read;

const isReading = () => draft.reading > 0;

/** Ask again what the images cost, after the model or its settings have changed. */
export async function planAgain() {
  try {
    await Promise.all(draft.images.map((image) => planImage(image, heard.imageFields())));
  } finally {
    showImages();
  }
}

/** Ask what the images cost, if the server could not be asked before. */
export async function planMissing() {
  const isMissing = draft.images.some(({ plan, problem }) => !plan && !problem);
  if (isMissing && !isReading()) await planAgain();
}

/** Add files to the question; see `allRead`. */
function addFiles(files) {
  const parts = [allRead(), readFiles(files)];
  draft.read = Promise.all(parts).then((read) => read.every(Boolean));
  return draft.read;
}

/** Read one file after the other, and say what is wrong with them; returns whether nothing is. */
async function readFiles(files) {
  draft.reading += 1;
  showImages();
  const problems = [];
  try {
    for (const [index, file] of files.entries()) {
      if (room() <= 0) {
        problems.unshift(leftOut(files.length - index, "file"));
        break;
      }
      const problem = await addFile(file);
      if (problem) problems.push(`${file.name}: ${problem}`);
    }
  } finally {
    draft.reading -= 1;
    showImages();
  }
  const isRead = problems.length === 0;
  const more = problems.splice(MOST_PROBLEMS).length;
  if (more) problems.push(`And ${counted(more, "more file")} with problems.`);
  if (!isRead) notice(problems.join("\n"));
  return isRead;
}

/** Add a file to the question; return what is wrong with it, or an empty text. */
async function addFile(file) {
  try {
    const { images, left } = await imagesOf(file, heard.imageFields());
    const tooMany = images.splice(Math.max(0, room())).length;
    draft.images.push(...images);
    showImages();
    await Promise.all(images.map((image) => planImage(image, heard.imageFields())));
    if (tooMany) return leftOut(tooMany + left, "page");
    return left ? `${counted(left, "more page")} left out. Split the file.` : "";
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    return error.message;
  }
}

/** How many images the question still takes. */
const room = () => limits.images - draft.images.length;

function leftOut(count, noun) {
  const most = counted(limits.images, "image");
  return `${counted(count, `more ${noun}`)} left out. The server takes ${most} at a time.`;
}

/**
 * Whether what is pasted is meant as text: a table that was copied comes with a picture of it. The
 * Finder names the files that it copies.
 */
function isText(transfer) {
  const lines = transfer.getData("text/plain").split(/[\r\n]+/).filter(Boolean);
  const names = [...transfer.files].map(({ name }) => name);
  return lines.some((line) => !names.some((name) => line.endsWith(name)));
}

function takeFiles(event, transfer) {
  if (!transfer?.files.length) return;
  event.preventDefault(); // or the browser opens a dropped file instead of this page
  if (!isAsked()) addFiles([...transfer.files]);
}

function startDropping() {
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault(); // a drop is taken
    find("drop").hidden = isAsked();
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) find("drop").hidden = true;
  });
  addEventListener("drop", (event) => {
    find("drop").hidden = true;
    takeFiles(event, event.dataTransfer);
  });
}

function showImages() {
  find("attachments").replaceChildren(...draft.images.map(attachment));
  showCost();
}

/** Say what the images of the question cost, or what is too much about those that are sent. */
export function showCost() {
  const tokens = draft.images.reduce((sum, image) => sum + (image.plan?.tokens ?? 0), 0);
  const cost = tokens ? counted(tokens, "token") : "";
  const isMuch = tokens > limits.tokens;
  const most = isMuch ? `${cost}, more than the ${number(limits.tokens)} that the model reads` : "";
  const problem = isReading() ? "" : excess(heard.allSent(draft.images)) || most;
  find("cost").value = isReading() ? "Reading…" : problem || cost;
  find("cost").classList.toggle("problem", Boolean(problem));
}

function attachment(image) {
  const remove = iconButton("close", `Remove ${image.name}`, () => {
    draft.images.splice(draft.images.indexOf(image), 1);
    showImages();
    heard.removed();
  });
  const cost =
    image.problem ||
    (image.plan ? `${counted(image.plan.tokens, "token")} · ${viewsInWords(image.plan)}` : "…");
  const facts = make(
    "span.facts",
    {},
    make("span.name", {}, image.name),
    make(image.problem ? "span.problem" : "span", {}, cost),
  );
  return make("li", { title: image.plan?.note || undefined }, smallPicture(image), facts, remove);
}
