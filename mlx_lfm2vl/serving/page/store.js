// The history, in this browser alone: conversations and pictures, the oldest given up first.
//
// A conversation is {id, title, name, updated, turns, lastKept, isForgotten}: `title` is its first
// question, `name` what the reader calls it, if anything, `lastKept` the last turn that was saved.
// Its summary is {id, title, name, updated, bytes, pictures, answer}: `bytes` of its text,
// `pictures` the bytes of each by its key, `answer` what has come of the last turn since it was
// saved. A picture is written once, under a key that tells its content, and stays as long as a
// summary names it.

import { result, within } from "./database.js";

export const MOST_BYTES = 256 * 2 ** 20;
const MOST_CONVERSATIONS = 200;

// Other tabs of the page, which show the same history.
const others = globalThis.BroadcastChannel ? new BroadcastChannel("mlx_lfm2vl") : null;

/**
 * Listen to the other tabs.
 * @param {function} listen called after they change the history, with {forgotten, renamed}:
 *   `forgotten` is the id of a conversation that was deleted, null for all, undefined for none;
 *   `renamed` is {id, name}, or undefined.
 */
export function onOtherTabs(listen) {
  others?.addEventListener("message", ({ data }) => listen(data));
}

// Saving reads pictures before it writes. What is loaded or deleted meanwhile must wait for that.
let pending = Promise.resolve();

/** Do something after all that was begun before it. */
function inTurn(work) {
  const done = pending.then(work);
  pending = done.catch(() => {});
  return done;
}

/** What a conversation is called in the list. */
export const nameOf = ({ name, title }) => name || title;

/**
 * Summaries of what is kept, the newest first. It fails where the browser keeps nothing.
 * @param {string} wanted words that each conversation must have; empty for all conversations.
 */
export async function listConversations(wanted = "") {
  const words = plain(wanted).split(/\s+/).filter(Boolean);
  const found = await within("readonly", async ({ summaries, conversations }) => {
    const all = await result(summaries.getAll());
    if (!words.length) return all;
    const texts = new Map();
    for (const { id, turns } of await result(conversations.getAll())) texts.set(id, turns);
    return all.filter((summary) => {
      const text = plain(textOf(summary, texts.get(summary.id) ?? []));
      return words.every((word) => text.includes(word));
    });
  });
  return found.sort(byAge);
}

const byAge = (one, other) => other.updated - one.updated;

/** A text without the difference of capitals and accents. */
const plain = (text) => text.normalize("NFKD").replaceAll(/\p{M}/gu, "").toLowerCase();

const textOf = ({ title, name, answer }, turns) =>
  [
    title,
    name,
    answer?.text,
    ...turns.flatMap((turn) => [
      turn.text,
      turn.answer.text,
      ...turn.images.map((image) => image.name),
    ]),
  ].join("\n");

/** A conversation that was kept, with what has come of its last answer; undefined for none. */
export const loadConversation = (id) =>
  inTurn(() => within("readonly", (stores) => load(stores, id))).catch(() => undefined);

async function load({ summaries, conversations, pictures }, id) {
  const [summary, found] = await Promise.all(
    [summaries, conversations].map((store) => result(store.get(id))),
  );
  if (!summary) return undefined;
  const { title, name, updated, answer } = summary;
  const { turns } = found;
  if (answer) turns.at(-1).answer = answer;
  // An earlier page wrote pictures into their turns.
  const apart = turns.flatMap((turn) => turn.images).filter((image) => !image.blob);
  await Promise.all(
    apart.map(async (image) => Object.assign(image, await result(pictures.get(image.key)))),
  );
  return { id, title, name, updated, turns };
}

/**
 * Keep a conversation as it is now, and give up the oldest ones beyond the cap. It gets the time,
 * the name that is kept, and an id of its own if another tab has gone on with the one that it was.
 * @returns {Promise<boolean>} whether it is kept: it may be too large, or the disk full, or the
 *   browser may keep nothing.
 */
export function saveConversation(conversation) {
  const { title } = conversation;
  const turns = [...conversation.turns]; // the reader may ask on, or otherwise, meanwhile
  const work = async () => {
    const images = await withKeys(turns.flatMap((turn) => turn.images));
    if (conversation.isForgotten) return false;
    const current = { ...conversation, title, turns };
    const kept = await within("readwrite", (stores) => save(stores, current, images));
    if (!kept) return false;
    Object.assign(conversation, kept, { lastKept: turns.at(-1) });
    others?.postMessage({});
    return true;
  };
  return inTurn(work).catch(() => false);
}

/** Pictures by their keys, which they get here if they have none. */
async function withKeys(images) {
  for (const image of images) image.key ??= await contentKey(image.blob);
  return new Map(images.map((image) => [image.key, image]));
}

/** A key that equal pictures share; on plain http from another machine, one that is its own. */
async function contentKey(blob) {
  if (!crypto.subtle) return newId();
  const digest = await crypto.subtle.digest("SHA-256", await blob.arrayBuffer());
  return [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function save({ summaries, conversations, pictures }, conversation, images) {
  const all = await result(summaries.getAll());
  const last = all.find(({ id }) => id === conversation.id);
  const isOurs = !last || last.updated === conversation.updated;
  const texts = conversation.turns.map((turn) => ({
    ...turn,
    images: turn.images.map(withoutBlobs),
  }));
  const summary = {
    id: isOurs ? conversation.id : newId(),
    title: conversation.title,
    name: (last && isOurs ? last : conversation).name,
    updated: Math.max(Date.now(), ...all.map((each) => each.updated + 1)),
    bytes: JSON.stringify(texts).length,
    pictures: Object.fromEntries([...images].map(([key, image]) => [key, bytesOf(image)])),
  };
  const older = all.filter(({ id }) => id !== summary.id).sort(byAge);
  const left = fitting([summary, ...older]);
  if (!left.includes(summary)) return null;
  for (const each of older.filter((one) => !left.includes(one))) {
    summaries.delete(each.id);
    conversations.delete(each.id);
  }
  const before = keysOf(all);
  for (const [key, { blob, shown }] of images)
    if (!before.has(key)) pictures.put({ key, blob, shown });
  deleteUnused(pictures, before, left);
  summaries.put(summary);
  conversations.put({ id: summary.id, turns: texts });
  return { id: summary.id, name: summary.name, updated: summary.updated };
}

const withoutBlobs = ({ blob, shown, ...rest }) => rest;

const bytesOf = ({ blob, shown }) => blob.size + (shown?.size ?? 0);

/** The first of some summaries that fit into the caps together; shared pictures count once. */
function fitting(all) {
  const seen = new Set();
  let sum = 0;
  return all.filter(({ bytes, pictures = {} }, index) => {
    sum += bytes;
    for (const [key, size] of Object.entries(pictures)) {
      if (!seen.has(key)) sum += size;
      seen.add(key);
    }
    return sum <= MOST_BYTES && index < MOST_CONVERSATIONS;
  });
}

/** The keys of the pictures that summaries name; those of an earlier page name none. */
const keysOf = (summaries) =>
  new Set(summaries.flatMap(({ pictures = {} }) => Object.keys(pictures)));

/** Delete those pictures that no summary names any more. */
function deleteUnused(pictures, before, summaries) {
  const used = keysOf(summaries);
  for (const key of before) if (!used.has(key)) pictures.delete(key);
}

/** Keep what has come of the last answer that was saved; a later question may not be kept. */
export const saveAnswer = ({ id, updated, lastKept }) =>
  within("readwrite", async ({ summaries }) => {
    const summary = await result(summaries.get(id));
    if (lastKept && summary?.updated === updated)
      summaries.put({ ...summary, answer: lastKept.answer });
  }).catch(() => {});

/** An id for a conversation, or for a picture. */
export const newId = () => crypto.randomUUID?.() ?? String(Math.random());

/** Call a conversation by a name; an empty one gives it its title back. */
export async function renameConversation(id, name) {
  await within("readwrite", async ({ summaries }) => {
    const summary = await result(summaries.get(id));
    if (summary) summaries.put({ ...summary, name });
  });
  others?.postMessage({ renamed: { id, name } });
}

/** Forget a conversation, and the pictures that no other one has. */
export const deleteConversation = (id) =>
  forget(id, async ({ summaries, conversations, pictures }) => {
    const all = await result(summaries.getAll());
    summaries.delete(id);
    conversations.delete(id);
    const left = all.filter((each) => each.id !== id);
    deleteUnused(pictures, keysOf(all), left);
  });

/** Forget everything. */
export const deleteAll = () =>
  forget(null, (stores) => Object.values(stores).forEach((store) => store.clear()));

async function forget(forgotten, remove) {
  await inTurn(() => within("readwrite", remove));
  others?.postMessage({ forgotten });
}
