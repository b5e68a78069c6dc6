// What a screen reader says of an answer while it is written: whole sentences, not tokens.

import { find, make } from "./dom.js";

const SHORTEST = 60; // letters of a piece, so that lists are not read a word at a time
const ENDS = /[.!?:;\n](?=\s|$)/g;
let said = 0;

/** Begin with a new answer. */
export function beginSpeech() {
  said = 0;
  find("live").replaceChildren();
}

/** Say the sentences of an answer that are complete and were not said yet; at its end, the rest. */
export function speak(text, isEnded) {
  const rest = text.slice(said);
  const length = isEnded ? rest.length : lastEnd(rest);
  if (length < (isEnded ? 1 : SHORTEST)) return;
  say(rest.slice(0, length).replaceAll(/[*_`#|]+/g, " "));
  said += length;
}

/** Say something about the answer, such as that it was stopped. */
export const say = (text) => find("live").append(make("p", {}, text));

function lastEnd(text) {
  let end = 0;
  for (const match of text.matchAll(ENDS)) end = match.index + 1;
  return end;
}
