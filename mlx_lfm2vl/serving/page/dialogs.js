// What the page says to the reader, or asks, outside of the conversation.

import { find } from "./dom.js";

const NOTICE_SECONDS = 8; // at least
const LETTERS_PER_SECOND = 12; // that a slow reader reads
let fading = 0;

/** Show a sentence for as long as it takes to read; an empty one takes the last away. */
export function notice(text) {
  clearTimeout(fading);
  find("notice").textContent = text;
  const seconds = Math.max(NOTICE_SECONDS, text.length / LETTERS_PER_SECOND);
  if (text) fading = setTimeout(() => notice(""), 1000 * seconds);
}

/** Whether something lies over the page that has to be answered first. */
export const isAsked = () => document.querySelector("dialog[open]") !== null;

/** Ask the reader for a token; null if there is none. */
export async function askToken(reason) {
  find("token-reason").textContent = reason;
  find("token-text").value = "";
  const answer = await answerOf(find("token"));
  return answer === "use" ? find("token-text").value.trim() : null;
}

/** Ask whether something should really be done. */
export async function isSure(question) {
  find("sure-text").textContent = question;
  return (await answerOf(find("sure"))) === "yes";
}

/** Make the dialogs tell what they are closed with, and the button work that must send no form. */
export function startDialogs() {
  find("token-cancel").addEventListener("click", () => find("token").close(""));
  for (const dialog of [find("token"), find("sure")])
    dialog.addEventListener("close", () => {
      if (!dialog.open) tell(dialog); // else it was opened again before this event came
    });
}

const waiting = new Map(); // those who wait for an answer, by dialog

/** Open a dialog, which may be open already; return what it is closed with. */
function answerOf(dialog) {
  if (!dialog.open) {
    tell(dialog);
    dialog.returnValue = "";
    dialog.showModal();
  }
  return new Promise((resolve) => {
    waiting.set(dialog, [...(waiting.get(dialog) ?? []), resolve]);
  });
}

/** Give the answer to those who wait for it. */
function tell(dialog) {
  for (const resolve of waiting.get(dialog) ?? []) resolve(dialog.returnValue);
  waiting.delete(dialog);
}
