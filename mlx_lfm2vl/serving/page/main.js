// The page: which conversation is shown, what is asked next, and what keys do.

import { find } from "./dom.js";
import { getJson, onUnauthorized, postJson, RequestError } from "./api.js";
import { loadConversation, saveConversation } from "./store.js";
import { releasePictures } from "./images.js";
import { SKILLS } from "./skills.js";
import { currentSchema, startSchema } from "./schema.js";
import { imageKnobs, samplingKnobs, settingsAreValid, showDefaults, startSettings, systemMessage } from "./settings.js";
import { answerLast, emptyAnswer, skillImages } from "./asking.js";
import { beginSpeech, say, speak } from "./speech.js";
import { turnView } from "./turns.js";
import { clearDraft, isReading, offerSkills, planAgain, readDraft, restoreDraft, setBusy, startComposer } from "./composer.js";
import { closePanels, setPanel, showHistory, startHistory, uncover } from "./history.js";

const NEAR = 120; // pixels from the end of the page, within which it follows an answer
const NOTICE_SECONDS = 8;

let conversation = newConversation();
let views = [];
let asking = null; // AbortController of the answer that is written

function newConversation() {
  return { id: crypto.randomUUID?.() ?? String(Math.random()), title: "", updated: 0, turns: [] };
}

/** Send the question that is written. */
async function send() {
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
  conversation.title ||= draft.text || `${SKILLS[draft.mode]?.title ?? "Picture"}: ${draft.images[0]?.name ?? ""}`;
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
  if (count < least) return least === 1 ? `${title} needs an image. Add one first.` : `${title} needs ${least} images or more.`;
  if (needs && !text && !(takesSchema && currentSchema())) return `${title} needs some words. Write them first.`;
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
  if (!(await saveConversation(current))) notice("The conversation is not kept in the history: there is no room for it.");
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
function startFollowing() {
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

function begin() {
  show(newConversation());
  clearDraft();
  uncover();
  find("question").focus();
}

let fading = 0;

function notice(text) {
  clearTimeout(fading);
  find("notice").textContent = text;
  if (text) fading = setTimeout(() => notice(""), 1000 * NOTICE_SECONDS);
}

/** Ask the reader for a token; null if there is none. */
function tokenDialog(reason) {
  const dialog = find("token");
  find("token-reason").textContent = reason;
  find("token-text").value = "";
  dialog.returnValue = "";
  if (!dialog.open) dialog.showModal();
  return new Promise((resolve) => {
    const close = () => resolve(dialog.returnValue === "use" ? find("token-text").value.trim() : null);
    dialog.addEventListener("close", close, { once: true });
  });
}

/** What a request about images says: the model, and how it cuts them. */
const imageFields = () => ({ model: find("model").value, ...imageKnobs() });

async function showModels() {
  const { data } = await getJson("v1/models");
  const select = find("model");
  select.replaceChildren(...data.map(({ id }) => new Option(id, id)));
  select.disabled = data.length < 2;
  await showModel();
}

async function showModel() {
  const { model } = await postJson("v1/plan", { model: find("model").value });
  document.title = model.name;
  showDefaults(model.defaults);
  offerSkills(model.skills, model.context);
  await planAgain();
}

/** Do something that asks the server, and say so if that fails. */
const trying = (work) => async () => {
  try {
    await work();
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    notice(error.message);
  }
};

function start() {
  onUnauthorized(tokenDialog);
  startFollowing();
  startComposer({ send, stop: () => asking?.abort(), imageFields, notice });
  startSettings(trying(planAgain));
  startSchema((isOn) => {
    find("schema-on").hidden = !isOn;
  });
  startHistory({
    async open(id) {
      const found = await loadConversation(id);
      if (found) show(found);
      uncover();
    },
    forgotten(id) {
      if (id !== null && id !== conversation.id) return;
      conversation.isForgotten = true;
      begin();
    },
  });
  find("model").addEventListener("change", trying(showModel));
  find("schema-on").addEventListener("click", () => {
    setPanel("settings", true);
    find("schema-text").focus();
  });
  find("new").addEventListener("click", begin);
  find("token-cancel").addEventListener("click", () => find("token").close(""));
  addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
    if (!closePanels()) asking?.abort();
  });
  offerSkills([], 0);
  trying(showModels)();
  addEventListener("focus", () => {
    if (!find("model").value) trying(showModels)(); // the server was not there when the page was opened
  });
}

start();
