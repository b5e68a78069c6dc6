// Where a question is written: what is to be done with its images, and its text.

import { find, icon, isComposing, make } from "./dom.js";
import { SKILLS } from "./skills.js";
import { draftImages, setImages, showCost, startAttachments } from "./attachments.js";

const ASK = { title: "Ask", hint: "Ask about the images", options: {} };
let draftMode = "ask";

/**
 * Make the form work.
 * @param {function} send called when the question is sent.
 * @param {function} stop called when the button is pressed while an answer is written.
 * @param {function} imageFields returns the model and image options of a request.
 * @param {function} sentWith takes a question, and returns the images that are sent with it.
 */
export function startComposer({ send, stop, imageFields, sentWith }) {
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
  startAttachments({
    imageFields,
    allSent: (images) => sentWith({ mode: draftMode, images }),
    removed: focusDraft,
  });
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
  chooseMode(modes.includes(draftMode) ? draftMode : "ask");
}

/** The question as it is written: {mode, text, options, images}. */
export function readDraft() {
  const options = Object.fromEntries(
    [...find("skill-options").querySelectorAll("select")].map((select) => [
      select.name,
      JSON.parse(select.value),
    ]),
  );
  const text = entry(draftMode).hint ? find("question").value.trim() : "";
  return { mode: draftMode, text, options, images: draftImages() };
}

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
  find("question").value = text;
  grow();
  setImages(images);
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

function choose(mode) {
  chooseMode(mode);
  find("skills").querySelector("[aria-pressed=true]").scrollIntoView({ block: "nearest" });
  focusDraft();
}

/** Go to the field of the question, or to the button that sends one without text. */
export const focusDraft = () => (entry(draftMode).hint ? find("question") : find("send")).focus();

const entry = (mode) => SKILLS[mode] ?? ASK;

function chooseMode(mode) {
  draftMode = mode;
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
