// Asking a question: the request of a turn, and its answer as it comes.
//
// A turn is {mode, text, options, images, answer}: `mode` is "ask" or the name of a skill. An
// answer is {state, text, progress, typed, problem, finish, stats}: `state` goes from "waiting" to
// "writing" and then to "done", "stopped" or "failed"; `typed` are the answers of a skill, one
// about all images or one for each. Turns are plain data, so that they can be kept.

import { events, post, postJson, RequestError } from "./api.js";
import { dataUri } from "./images.js";
import { SKILLS, typedText } from "./skills.js";

const LONGEST_NAME = 200; // letters of a file's name, that the server takes

/** An answer of which nothing is there yet. */
export const emptyAnswer = () => ({
  state: "waiting",
  text: "",
  progress: null,
  typed: null,
  problem: "",
  finish: "",
  stats: null,
});

/**
 * Ask for the answer of the last turn, and fill it in.
 * @param {Object[]} turns of the conversation, with the one to be answered at the end.
 * @param {Object} settings {model, system, sampling, images, schema}.
 * @param {AbortSignal} signal stops the answer; what has come is kept.
 * @param {function} changed called whenever the answer has grown.
 */
export async function answerLast(turns, settings, signal, changed) {
  const { mode, answer } = turns.at(-1);
  const ask = mode === "ask" ? chat : skill;
  try {
    await ask(turns, settings, signal, changed);
    answer.state = "done";
  } catch (error) {
    if (signal.aborted) answer.state = "stopped";
    else Object.assign(answer, { state: "failed", problem: told(error) });
  }
  answer.progress = null;
  changed();
}

function told(error) {
  if (error instanceof RequestError) return error.message;
  return `The page could not read the answer: ${error.message}`;
}

async function chat(turns, settings, signal, changed) {
  const { answer } = turns.at(-1);
  const clock = startClock();
  const response = await post("v1/chat/completions", await chatBody(turns, settings), signal);
  for await (const chunk of events(response)) {
    const [choice] = chunk.choices ?? [];
    if (chunk.lfm2vl?.progress) answer.progress = chunk.lfm2vl.progress;
    if (choice?.delta?.content) {
      clock.token();
      Object.assign(answer, {
        state: "writing",
        progress: null,
        text: answer.text + choice.delta.content,
      });
    }
    if (choice?.finish_reason) answer.finish = choice.finish_reason;
    if (chunk.usage) answer.stats = clock.stats(chunk.usage);
    changed();
  }
}

async function chatBody(turns, { model, system, sampling, images, schema }) {
  const messages = system ? [{ role: "system", content: system }] : [];
  for (const turn of answered(turns))
    messages.push(await userMessage(turn), { role: "assistant", content: turn.answer.text });
  messages.push(await userMessage(turns.at(-1)));
  return {
    model,
    messages,
    stream: true,
    stream_options: { include_usage: true },
    return_progress: true,
    ...sampling,
    ...images,
    ...(schema && {
      response_format: { type: "json_schema", json_schema: { name: "answer", schema } },
    }),
  };
}

/** The turns before the last. A question without an answer would leave two questions in a row. */
const answered = (turns) => turns.slice(0, -1).filter((turn) => turn.answer.text);

/** A question with its images before its text. */
async function userMessage({ mode, text, images }) {
  const parts = await Promise.all(
    images.map(async ({ blob }) => ({
      type: "image_url",
      image_url: { url: await dataUri(blob) },
    })),
  );
  const words = mode === "ask" ? text : `${SKILLS[mode].title}${text && `: ${text}`}`;
  return { role: "user", content: words ? [...parts, { type: "text", text: words }] : parts };
}

async function skill(turns, { model, images: knobs, schema }, signal) {
  const { mode, text, options, answer } = turns.at(-1);
  const { read = () => ({}), takesSchema } = SKILLS[mode];
  const images = skillImages(turns).map(async ({ name, blob }) => ({
    data: await dataUri(blob),
    filename: name.slice(0, LONGEST_NAME),
  }));
  const clock = startClock();
  const { answers, usage } = await postJson(
    `v1/skills/${mode}`,
    {
      model,
      images: await Promise.all(images),
      ...options,
      ...(takesSchema && schema ? { schema } : read(text)),
      ...knobs,
    },
    signal,
  );
  const isCut = answers.some((each) => each.finish_reason === "length");
  Object.assign(answer, {
    typed: answers,
    text: typedText(mode, answers),
    finish: isCut ? "length" : "stop",
    stats: clock.stats(usage),
  });
}

/** The images that a skill is asked about: those of the last turn that has any. */
export const skillImages = (turns) => turns.findLast((turn) => turn.images.length)?.images ?? [];

/** The images that are sent with the last turn. */
export const sentImages = (turns) =>
  turns.at(-1).mode === "ask"
    ? [...answered(turns), turns.at(-1)].flatMap((turn) => turn.images)
    : skillImages(turns);

/** Times as they are seen here, with queue and network. */
function startClock() {
  const begin = performance.now();
  let first = 0;
  let last = 0;
  return {
    token() {
      last = performance.now();
      first ||= last;
    },
    /** Seconds, tokens per second, and tokens. An answer that came whole has no first token. */
    stats(usage) {
      const later = (usage?.completion_tokens ?? 0) - 1;
      const seconds = (last - first) / 1000;
      return {
        first: first ? (first - begin) / 1000 : null,
        total: (performance.now() - begin) / 1000,
        speed: later > 0 && seconds > 0 ? later / seconds : null,
        prompt: usage?.prompt_tokens ?? null,
        cached: usage?.prompt_tokens_details?.cached_tokens ?? 0,
        completion: usage?.completion_tokens ?? null,
      };
    },
  };
}
