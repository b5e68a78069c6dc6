// Asking the server: JSON, and streams of events. A token is asked for when the server wants one.

import { ofTab } from "./kept.js";

const TOKEN = "mlx_lfm2vl.token";
const WHERE = "Who started the server has it: in the file of --token-file, or in MLX_LFM2VL_TOKEN.";

/** What went wrong with a request, in a sentence for the reader. */
export class RequestError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

let askToken = async () => null;

/** Name the function that is called on 401, with the reason; it returns a token, or null. */
export function onUnauthorized(ask) {
  askToken = ask;
}

export const getJson = async (path) => (await request(path, {})).json();

export const postJson = async (path, body, signal) => (await post(path, body, signal)).json();

/** Post JSON; the response is there when its headers are. */
export const post = (path, body, signal) =>
  request(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });

async function request(path, options) {
  for (;;) {
    const token = ofTab.get(TOKEN);
    const headers = token
      ? { ...options.headers, Authorization: `Bearer ${sendable(token)}` }
      : options.headers;
    const response = await sent(path, { ...options, headers });
    if (response.ok) return response;
    const error = await refusal(response);
    if (error.status !== 401) throw error;
    const given = await askToken(token ? "The server does not accept this token." : WHERE);
    if (!given) throw new RequestError("The server answers only with its token.", error.status);
    ofTab.set(TOKEN, given);
  }
}

/** A token without the letters that no header holds; the server then says that it is wrong. */
const sendable = (token) => token.replaceAll(/[^!-~]/g, "?");

async function sent(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new RequestError("The server cannot be reached. Is it still running?");
  }
}

/** The error that a response holds. */
async function refusal(response) {
  const found = await response.json().catch(() => null);
  const message = found?.error?.message ?? `The server answered with status ${response.status}.`;
  const seconds = response.headers.get("Retry-After");
  const hint = seconds ? ` Try again in ${seconds} s.` : "";
  return new RequestError(`${sentence(message)}${hint}`, response.status);
}

/** The objects of a stream of server-sent events, up to its "[DONE]". */
export async function* events(response) {
  let isDone = false;
  for await (const { name, data } of frames(response)) {
    if (data === "[DONE]") isDone = true;
    else yield checked(JSON.parse(data), name);
  }
  if (!isDone) throw new RequestError("The answer broke off: the connection was closed.");
}

function checked(object, name) {
  const error = object.error ?? (name === "error" ? object : null);
  if (error) throw new RequestError(sentence(error.message ?? "The server failed."));
  return object;
}

async function* frames(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let kept = "";
  try {
    for (;;) {
      const { done, value } = await read(reader);
      if (done) return;
      const parts = (kept + value).split(/\r?\n\r?\n/);
      kept = parts.pop();
      for (const part of parts) {
        const frame = parsed(part);
        if (frame) yield frame;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function read(reader) {
  try {
    return await reader.read();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new RequestError("The answer broke off: the connection was lost.");
  }
}

/** The name and data of an event; null for a comment, which keeps the connection open. */
function parsed(part) {
  const lines = part.split(/\r?\n/);
  const of = (field) =>
    lines
      .filter((line) => line.startsWith(`${field}:`))
      .map((line) => line.slice(field.length + 1).trimStart());
  const data = of("data");
  return data.length ? { name: of("event").join(""), data: data.join("\n") } : null;
}

/** A message as a sentence: with a capital, and a full stop. */
export function sentence(message) {
  const text = message.charAt(0).toUpperCase() + message.slice(1);
  return /[.!?]$/.test(text) ? text : `${text}.`;
}
