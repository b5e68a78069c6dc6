// Where a question is written: its images with their cost, its text, and what is to be done.

import { counted, find, icon, iconButton, isComposing, make, number } from "./dom.js";
import { RequestError } from "./api.js";
import { isAsked, notice } from "./dialogs.js";
import { imagesOf, planImage, viewsInWords } from "./images.js";
import { excess, limits } from "./limits.js";
import { smallPicture } from "./picture.js";
import { SKILLS } from "./skills.js";

const ASK = { title: "Ask", hint: "Ask about the images", options: {} };
const MOST_PROBLEMS = 5; // of files, that are told one by one
const draft = { mode: "ask", images: [], reading: 0, read: Promise.resolve(true) };
let knobs = () => ({});
let sentWith = ({ images }) => images;

/**
 * Make the form work.
 * @param {function} send called when the question is sent.
 * @param {function} stop called when the button is pressed while an answer is written.
 * @param {function} imageFields returns the model and image options of a request.
 * @param {function} sentWith takes a question, and returns the images that are sent with it.
 */
export function startComposer({ send, stop, imageFields, sentWith: sent }) {
  knobs = imageFields;
  sentWith = sent;
  const question = find("question");
  question.addEventListener("input", grow);
  question.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || isComposing(event)) return;
    event.preventDefault();
    if (!isBusy()) send();
  });
  find("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    if (isBusy()) stop();
    else send();
  });
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

/** Offer the skills that a model was taught, in the order of the page. */
export function offerSkills(names) {
  const modes = ["ask", ...Object.keys(SKILLS).filter((name) => names.includes(name))];
  const buttons = modes.map((mode) =>
    make(
      "button",
      { type: "button", "data-mode": mode, click: () => choose(mode) },
      entry(mode).title,
    ),
  );
  find("skills").replaceChildren(...buttons);
  chooseMode(modes.includes(draft.mode) ? draft.mode : "ask");
}

/** The question as it is written: {mode, text, options, images}. */
export function readDraft() {
  const options = Object.fromEntries(
    [...find("skill-options").querySelectorAll("select")].map((select) => [
      select.name,
      JSON.parse(select.value),
    ]),
  );
  const text = entry(draft.mode).hint ? find("question").value.trim() : "";
  return { mode: draft.mode, text, options, images: [...draft.images] };
}

/** Wait for the files that are read now; returns whether all could be read. */
export const allRead = async () => !isReading() || draft.read;

const isReading = () => draft.reading > 0;

/** Begin a new question of the same kind. */
export const clearDraft = () => setDraft("", []);

/** Write a question again: {mode, text, options, images}. */
export function restoreDraft({ mode, text, options, images }) {
  choose(mode);
  for (const select of find("skill-options").querySelectorAll("select"))
    select.value = JSON.stringify(options[select.name]);
  setDraft(text, images);
}

function setDraft(text, images) {
  draft.images = [...images];
  find("question").value = text;
  grow();
  showImages();
}

/** Offer to stop instead of to send. */
export function setBusy(isUnderWay) {
  const button = find("send");
  button.dataset.busy = String(isUnderWay);
  button.setAttribute("aria-label", isUnderWay ? "Stop" : "Send");
  button.title = isUnderWay ? "Stop (Esc)" : "Send (Enter)";
  button.replaceChildren(icon(isUnderWay ? "stop" : "send"));
}

const isBusy = () => find("send").dataset.busy === "true";

/** Ask again what the images cost, after the model or its settings have changed. */
export async function planAgain() {
  try {
    await Promise.all(draft.images.map((image) => planImage(image, knobs())));
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
    const { images, left } = await imagesOf(file, knobs());
    const tooMany = images.splice(Math.max(0, room())).length;
    draft.images.push(...images);
    showImages();
    await Promise.all(images.map((image) => planImage(image, knobs())));
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

function choose(mode) {
  chooseMode(mode);
  find("skills").querySelector("[aria-pressed=true]").scrollIntoView({ block: "nearest" });
  focusDraft();
}

/** Go to the field of the question, or to the button that sends one without text. */
export const focusDraft = () => (entry(draft.mode).hint ? find("question") : find("send")).focus();

const entry = (mode) => SKILLS[mode] ?? ASK;

function chooseMode(mode) {
  draft.mode = mode;
  for (const button of find("skills").children)
    button.setAttribute("aria-pressed", String(button.dataset.mode === mode));
  const { hint, options = {}, title } = entry(mode);
  const question = find("question");
  question.hidden = !hint;
  question.placeholder = hint ?? "";
  find("question-label").textContent = mode === "ask" ? "Question" : title;
  const selects = Object.entries(options).map(([name, values]) => {
    const choices = values.map((value) =>
      make("option", { value: JSON.stringify(value) }, String(value)),
    );
    return make("label", {}, `${name} `, make("select", { name }, ...choices));
  });
  find("skill-options").replaceChildren(...selects);
  grow();
  showCost();
}

/** Let the field be as high as its text. */
function grow() {
  const question = find("question");
  question.style.height = "auto";
  question.style.height = `${question.scrollHeight}px`;
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
  const problem = isReading() ? "" : excess(sentWith(draft)) || most;
  find("cost").value = isReading() ? "Reading…" : problem || cost;
  find("cost").classList.toggle("problem", Boolean(problem));
}

function attachment(image) {
  const remove = iconButton("close", `Remove ${image.name}`, () => {
    draft.images.splice(draft.images.indexOf(image), 1);
    showImages();
    focusDraft();
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
