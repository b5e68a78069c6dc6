// A turn of the conversation on the page: the question with its pictures, and the answer.

import { counted, duration, icon, iconButton, make, number } from "./dom.js";
import { showCode, showMarkdown } from "./markdown.js";
import { smallPicture } from "./picture.js";
import { SKILLS, showTyped } from "./skills.js";
import { say } from "./speech.js";

const STAGES = {
  queue: ({ total }) => (total ? `Waiting for ${counted(total, "question")} before` : "Waiting"),
  load: () => "Loading the model",
  encode: () => "Looking at the images",
  prefill: () => "Reading",
};
const BROKEN = {
  stopped: "Stopped.",
  interrupted: "The page was left while this was written.",
};
const ENDINGS = {
  length: "The answer has reached the longest length that is set.",
  content_filter: "The server cut the answer.",
};

/**
 * Show a turn.
 * @param {Object} turn see asking.js.
 * @param {function} images returns the images that its skill is about.
 * @param {{retry: function, change: function}} actions on the last turn: ask again or otherwise.
 * @returns {{node: Element, update: function(boolean)}} `update` shows what has come since, and
 *   takes whether the turn is the last one.
 */
export function turnView(turn, images, actions) {
  const content = make(turn.mode === "ask" ? "div.content.markdown" : "div.content", {
    dir: "auto",
  });
  const status = make("div.status");
  const foot = make("div.foot");
  const answer = make("div.answer", {}, heading("Answer"), status, content, foot);
  const node = make("article.turn", {}, question(turn), answer);
  const update = (isLast) => {
    const isUnderWay = ["waiting", "writing"].includes(turn.answer.state);
    answer.setAttribute("aria-busy", String(isUnderWay));
    showContent(content, turn, images);
    status.replaceChildren(
      ...(turn.answer.state === "waiting" ? waiting(turn.answer.progress) : []),
    );
    foot.replaceChildren(...(isUnderWay ? [] : footer(turn.answer, isLast && actions)));
  };
  return { node, update };
}

function question({ mode, text, options, images }) {
  const parts = images.length ? [make("div.pictures", {}, ...images.map(smallPicture))] : [];
  const words = [];
  const skill = mode === "ask" ? [] : [SKILLS[mode].title, ...unusual(mode, options)];
  if (skill.length) words.push(make("span.skill", {}, skill.join(" · ")));
  if (text) words.push(make("span", {}, text));
  if (words.length) parts.push(make("div.bubble", { dir: "auto" }, ...words));
  return make("div.question", {}, heading("Question"), ...parts);
}

/** A heading for those who go from heading to heading and do not see where a part begins. */
const heading = (text) => make("h2.unseen", {}, text);

/** The options that are not as they usually are. */
const unusual = (mode, options) =>
  Object.entries(options)
    .filter(([name, value]) => value !== SKILLS[mode].options[name][0])
    .map(([, value]) => value);

function showContent(content, { mode, answer }, images) {
  if (mode !== "ask") {
    // Once: a picture that is made again is drawn again.
    if (answer.typed && !content.hasChildNodes())
      content.append(...showTyped(mode, answer.typed, images()));
    return;
  }
  const json = asJson(answer);
  if (json) showCode(content, json, "JSON");
  else showMarkdown(content, answer.text);
}

/** The text of an answer that is a JSON object or list, else null. It is tidy when it is whole. */
function asJson({ state, text }) {
  if (!/^\s*[{[]/.test(text)) return null;
  try {
    if (state === "done") return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    // It was cut off, or never was JSON.
  }
  return /^\s*\{/.test(text) ? text : null; // a bracket may also begin a link
}

function waiting(progress) {
  if (!progress)
    return [
      make(
        "span.dots",
        { role: "img", "aria-label": "Waiting for the answer" },
        make("i"),
        make("i"),
        make("i"),
      ),
    ];
  const { stage, done, total } = progress;
  const words = (STAGES[stage] ?? STAGES.prefill)(progress);
  const isCounted = total > 0 && stage !== "queue" && stage !== "load";
  const tokens = isCounted ? ` · ${number(done)} of ${counted(total, "token")}` : "";
  const bar = isCounted
    ? make("progress", { value: done, max: total, "aria-label": words })
    : make("progress", { "aria-label": words });
  return [make("span", {}, words + tokens), bar];
}

function footer(answer, actions) {
  const parts = [];
  if (answer.state === "failed") parts.push(make("p.problem", { role: "alert" }, answer.problem));
  if (BROKEN[answer.state]) parts.push(make("p.hint", {}, BROKEN[answer.state]));
  if (answer.state === "done" && ENDINGS[answer.finish])
    parts.push(make("p.hint", {}, ENDINGS[answer.finish]));
  const tools = [];
  // There is no clipboard on plain http from another machine.
  if (answer.text && navigator.clipboard) tools.push(copyButton(answer));
  if (actions)
    tools.push(
      iconButton("retry", "Ask again", actions.retry),
      iconButton("new", "Change the question", actions.change),
    );
  if (answer.stats) tools.push(make("span.stats", {}, statsInWords(answer.stats)));
  return [...parts, make("div.row", {}, ...tools)];
}

function statsInWords({ first, total, speed, prompt, cached, completion }) {
  const parts = [
    first === null ? `answered in ${duration(total)}` : `first token after ${duration(first)}`,
  ];
  if (speed) parts.push(`${number(speed, speed < 10 ? 1 : 0)} tokens/s`);
  if (completion) parts.push(`${counted(completion, "token")} written`);
  if (prompt !== null)
    parts.push(`${number(prompt)} read${cached ? `, ${number(cached)} cached` : ""}`);
  return parts.join(" · ");
}

function copyButton({ text, typed }) {
  const button = iconButton("copy", "Copy", async () => {
    await navigator.clipboard.writeText(typed ? JSON.stringify(typed, null, 2) : text);
    say("Copied.");
    button.replaceChildren(icon("done"));
    setTimeout(() => button.replaceChildren(icon("copy")), 1500);
  });
  return button;
}
