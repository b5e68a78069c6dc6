// The conversation on the page: its questions are sent, answered, kept, and asked again.

import { find } from "./dom.js";
import { loadConversation, saveConversation } from "./store.js";
import { notice } from "./dialogs.js";
import { releasePictures } from "./images.js";
import { SKILLS } from "./skills.js";
import { currentSchema } from "./schema.js";
import { imageKnobs, samplingKnobs, settingsAreValid, systemMessage } from "./settings.js";
import { answerLast, emptyAnswer, skillImages } from "./asking.js";
import { beginSpeech, say, speak } from "./speech.js";
import { turnView } from "./turns.js";
import { clearDraft, isReading, readDraft, restoreDraft, setBusy } from "./composer.js";
import { uncover } from "./panels.js";
import { showHistory } from "./history.js";

const NEAR = 120; // pixels from the end of the page, within which it follows an answer

let conversation = newConversation();
let views = [];
let asking = null; // AbortController of the answer that is written

function newConversation() {
  return { id: crypto.randomUUID?.() ?? String(Math.random()), title: "", updated: 0, turns: [] };
}

/** Send the question that is written. */
export async function send() {
  if (asking) return;
  const draft = readDraft();
  const problem = refusal(draft);
  if (problem) {
    notice(problem);
    return;
  }
  notice("");
  const turn = { ...draft, answer: emptyAnswer() };
  conversation.turns.push(turn);
  conversation.title ||=
    draft.text || `${SKILLS[draft.mode]?.title ?? "Picture"}: ${draft.images[0]?.name ?? ""}`;
  clearDraft();
  addView(turn);
  await answer();
}

/** Why a question cannot be sent as it is; empty if it can. */
function refusal({ mode, text, images }) {
  if (isReading()) return "An image is still being read.";
  if (!settingsAreValid()) return "A setting is out of its range.";
  const wrong = images.find((image) => image.problem);
  if (wrong) return `${wrong.name}: ${wrong.problem}`;
  if (mode === "ask") return text || images.length ? "" : "Write a question first.";
  const { title, needs, least = 1, takesSchema } = SKILLS[mode];
  const count = (images.length ? images : skillImages(conversation.turns)).length;
  if (count < least)
    return least === 1
      ? `${title} needs an image. Add one first.`
      : `${title} needs ${least} images or more.`;
  if (needs && !text && !(takesSchema && currentSchema()))
    return `${title} needs some words. Write them first.`;
  return "";
}

/** Let the last turn be answered, and keep the conversation. */
async function answer() {
  const current = conversation; // the reader may open another one meanwhile
  const { answer: written } = current.turns.at(-1);
  asking = new AbortController();
  setBusy(true);
  beginSpeech();
  const kept = keep(current); // the question, should the tab be closed before there is an answer
  await answerLast(current.turns, settings(), asking.signal, drawSoon);
  asking = null;
  setBusy(false);
  if (current === conversation) {
    draw();
    speak(written.text, true);
    if (written.state === "stopped") say("Stopped.");
  }
  await kept;
  await keep(current);
}

async function keep(current) {
  if (current.isForgotten) return;
  current.updated = Date.now();
  if (!(await saveConversation(current)))
    notice("The conversation is not kept in the history: there is no room for it.");
  await showHistory(conversation.id);
}

function retry() {
  const turn = conversation.turns.at(-1);
  turn.answer = emptyAnswer();
  views.pop().node.remove();
  addView(turn);
  find("send").focus(); // which is there to stop it now
  answer();
}

/** Take the last question back, so that it can be asked otherwise. */
function change() {
  const { text, images } = readDraft();
  if (text || images.length) {
    notice("Another question is written already. Send or clear it first.");
    return;
  }
  restoreDraft(conversation.turns.pop());
  views.pop().node.remove();
  views.at(-1)?.update(true);
  find("welcome").hidden = views.length > 0;
}

const settings = () => ({
  model: find("model").value,
  system: systemMessage(),
  sampling: samplingKnobs(),
  images: imageKnobs(),
  schema: currentSchema(),
});

function addView(turn) {
  const before = conversation.turns.slice(0, conversation.turns.indexOf(turn) + 1);
  const view = turnView(turn, () => skillImages(before), { retry, change });
  views.push(view);
  find("welcome").hidden = true;
  find("turns").append(view.node);
  views.at(-2)?.update(false);
  view.update(true);
  isAtEnd = true;
  follow();
}

let isDrawing = false;

/** Draw the last answer with the next frame, however many tokens come before it. */
function drawSoon() {
  if (isDrawing) return;
  isDrawing = true;
  requestAnimationFrame(draw);
}

function draw() {
  isDrawing = false;
  views.at(-1)?.update(true);
  if (asking && conversation.turns.length) speak(conversation.turns.at(-1).answer.text, false);
  follow();
}

let isAtEnd = true; // of the conversation; who has scrolled up is left there

function follow() {
  if (isAtEnd) find("turns").scrollTop = find("turns").scrollHeight;
}

/** Stay at the end of the conversation while it grows, or while the question below it does. */
export function startFollowing() {
  const turns = find("turns");
  turns.addEventListener("scroll", () => {
    isAtEnd = turns.scrollHeight - turns.scrollTop - turns.clientHeight < NEAR;
  });
  new ResizeObserver(follow).observe(turns);
}

/** Show a conversation instead of the one on the page. */
function show(next) {
  asking?.abort();
  conversation = next;
  views = [];
  releasePictures();
  for (const node of find("turns").querySelectorAll(".turn")) node.remove();
  find("welcome").hidden = next.turns.length > 0;
  for (const turn of next.turns) {
    endBroken(turn.answer);
    addView(turn);
  }
  showHistory(next.id);
}

/** An answer that was being written when the tab was closed will not go on. */
function endBroken(answer) {
  if (["waiting", "writing"].includes(answer.state)) answer.state = "stopped";
}

/** Begin a new conversation. */
export function begin() {
  show(newConversation());
  clearDraft();
  uncover();
  find("question").focus();
}

/** Show a conversation that was kept. */
export async function reopen(id) {
  const found = await loadConversation(id);
  if (found) show(found);
  uncover();
}

/** Take the conversation from the page if it was deleted, also by deleting all: `id` is null. */
export function forget(id) {
  if (id !== null && id !== conversation.id) return;
  conversation.isForgotten = true;
  begin();
}

/** Stop the answer that is written, if there is one. */
export const stop = () => asking?.abort();
