// The conversation on the page: its questions are sent, answered, kept, and asked again.

import { find } from "./dom.js";
import {
  loadConversation,
  nameOf,
  newId,
  onOtherTabs,
  saveAnswer,
  saveConversation,
} from "./store.js";
import { notice } from "./dialogs.js";
import { releasePictures } from "./images.js";
import { SKILLS } from "./skills.js";
import { currentSchema } from "./schema.js";
import { imageKnobs, samplingKnobs, systemMessage } from "./settings.js";
import { answerLast, emptyAnswer, sentImages, skillImages } from "./asking.js";
import { refusal } from "./refusal.js";
import { beginSpeech, say, speak } from "./speech.js";
import { turnView } from "./turns.js";
import { follow, goToEnd } from "./following.js";
import { allRead, showCost } from "./attachments.js";
import { clearDraft, focusDraft, readDraft, restoreDraft, setBusy } from "./composer.js";
import { uncover } from "./panels.js";
import { showHistory } from "./history.js";

const SAVE_EVERY = 1000; // milliseconds, of an answer that is written
const PAUSES = 3; // times that a drawing takes, until the next
const LONGEST_TITLE = 100; // letters

let conversation = newConversation();
let views = [];
let asking = null; // AbortController of the answer that is written
let isTold = false; // that nothing is kept

function newConversation() {
  return { id: newId(), title: "", name: "", updated: 0, turns: [] };
}

/** The images that are sent with a question: its own, and those of the turns before it. */
export const sentWith = (draft) => sentImages([...conversation.turns, draft]);

/** Send the question that is written. */
export async function send() {
  const isRead = await allRead();
  if (asking || !isRead) return;
  const draft = readDraft();
  const problem = refusal(draft, conversation.turns);
  if (problem) {
    notice(problem);
    return;
  }
  notice("");
  const turn = { ...draft, answer: emptyAnswer() };
  conversation.turns.push(turn);
  conversation.title ||= titleOf(turn);
  clearDraft();
  addView(turn);
  await answer();
}

function titleOf({ mode, text, images }) {
  const words = text || `${SKILLS[mode]?.title ?? "Picture"}: ${images[0]?.name ?? ""}`;
  const title = words.replaceAll(/\s+/g, " ");
  return title.length > LONGEST_TITLE ? `${title.slice(0, LONGEST_TITLE)}…` : title;
}

/** Let the last turn be answered, and keep the conversation. */
async function answer() {
  const current = conversation; // the reader may open another one meanwhile
  const { answer: written } = current.turns.at(-1);
  asking = new AbortController();
  setBusy(true);
  showTitle();
  beginSpeech();
  setPlace("replaceState"); // the reader may leave before it is kept
  // The tab may be closed before the answer is whole.
  keep(current);
  const saving = setInterval(() => saveAnswer(current), SAVE_EVERY);
  await answerLast(current.turns, settings(), asking.signal, drawSoon);
  clearInterval(saving);
  asking = null;
  setBusy(false);
  showCost();
  showTitle();
  if (current === conversation) {
    draw();
    speak(written.text, true);
    if (written.state === "stopped") say("Stopped.");
  }
  await keep(current);
}

async function keep(current) {
  if (current.isForgotten) return;
  const { id } = current;
  const isKept = await saveConversation(current);
  if (!isKept && !isTold) {
    isTold = true;
    notice("This conversation is not kept in the history: the browser gives it no room.");
  }
  if (current !== conversation) return;
  if (place() === id) setPlace("replaceState"); // else the reader is on the way to another one
  await showHistory(conversation.id);
}

/** The id of the conversation that the browser's entry names; empty for a new one. */
const place = () => history.state?.conversation ?? "";

/** Let the browser's entry name the conversation: reload and the back button return to it. */
const setPlace = (change) =>
  history[change]({ conversation: conversation.turns.length ? conversation.id : "" }, "");

/** Say in the title of the page what it is about, and whether an answer is written. */
export function showTitle() {
  const parts = [asking && "Answering…", nameOf(conversation), find("model").value || "LFM2-VL"];
  document.title = parts.filter(Boolean).join(" · ");
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
  if (!conversation.turns.length) conversation.title = ""; // the next question gives another
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
  goToEnd();
}

let isDrawing = false;
let pause = 0; // milliseconds between drawings: the longer one takes, the fewer there are

/** Draw the last answer with a frame soon, however many tokens come before it. */
function drawSoon() {
  if (isDrawing) return;
  isDrawing = true;
  setTimeout(() => requestAnimationFrame(draw), pause);
}

function draw() {
  const begin = performance.now();
  isDrawing = false;
  views.at(-1)?.update(true);
  if (asking && conversation.turns.length) speak(conversation.turns.at(-1).answer.text, false);
  follow();
  pause = PAUSES * (performance.now() - begin);
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
  showCost();
  showTitle();
  showHistory(next.id);
}

/** An answer that was being written when the page was left will not go on. */
function endBroken(answer) {
  if (["waiting", "writing"].includes(answer.state)) answer.state = "interrupted";
}

/** Begin a new conversation; a question that is written already may be meant for it. */
export function begin() {
  const isOther = conversation.turns.length > 0;
  show(newConversation());
  if (isOther) setPlace("pushState");
  uncover();
  focusDraft();
}

/** Show a conversation that was kept. */
export async function reopen(id) {
  const found = id === conversation.id ? null : await loadConversation(id);
  if (found) {
    show(found);
    setPlace("pushState");
  }
  uncover();
}

/** Take the conversation from the page if it was deleted, also by deleting all: `id` is null. */
export function forget(id) {
  if (id !== null && id !== conversation.id) return;
  conversation.isForgotten = true;
  show(newConversation());
  setPlace("replaceState");
}

/** Call the conversation by the name that the reader has given it, if it is the one on the page. */
export function rename({ id, name }) {
  if (id !== conversation.id) return;
  conversation.name = name;
  showTitle();
}

/** Show the conversation of the browser's entry, now and when the reader goes back or forward. */
export function startPlaces() {
  const visit = async () => {
    const wanted = place();
    if (wanted === conversation.id) return;
    const found = await loadConversation(wanted);
    if (wanted === place()) show(found ?? newConversation()); // the reader may have gone on
  };
  addEventListener("popstate", visit);
  onOtherTabs(({ forgotten, renamed }) => {
    if (renamed) rename(renamed);
    if (forgotten === undefined) showHistory(conversation.id);
    else forget(forgotten);
  });
  if (place()) visit();
}

/** Stop the answer that is written, if there is one. */
export const stop = () => asking?.abort();
