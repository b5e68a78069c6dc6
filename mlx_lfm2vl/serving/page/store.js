// The history, in this browser alone: conversations with their pictures, the oldest given up first.
//
// A conversation is {id, title, updated, turns}. Its summary is {id, title, updated, bytes}, and
// holds in `answer` what has come of the last answer since the conversation was saved.

const NAME = "mlx_lfm2vl";
export const MOST_BYTES = 256 * 2 ** 20;
const MOST_CONVERSATIONS = 200;

/** A request of IndexedDB as a promise. */
const result = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

let opened = null;

function database() {
  opened ??= open();
  opened.catch(forgetDatabase); // a later attempt may succeed
  return opened;
}

async function open() {
  const request = indexedDB.open(NAME, 1);
  request.onupgradeneeded = () => {
    request.result.createObjectStore("summaries", { keyPath: "id" });
    request.result.createObjectStore("conversations", { keyPath: "id" });
  };
  const found = await result(request);
  found.onclose = forgetDatabase; // the reader may clear what the browser keeps of this page
  return found;
}

function forgetDatabase() {
  opened = null;
}

/** Run a function on both stores in one transaction, which happens as a whole or not at all. */
async function within(mode, work) {
  const transaction = (await database()).transaction(["summaries", "conversations"], mode);
  const ended = new Promise((resolve, reject) => {
    transaction.oncomplete = resolve;
    transaction.onabort = () => reject(transaction.error);
  });
  const stores = ["summaries", "conversations"].map((name) => transaction.objectStore(name));
  const done = Promise.resolve(work(...stores)).catch((error) => {
    transaction.abort();
    throw error;
  });
  const [found] = await Promise.all([done, ended]);
  return found;
}

// Other tabs of the page, which show the same history.
const others = globalThis.BroadcastChannel ? new BroadcastChannel(NAME) : null;

/**
 * Listen to the other tabs.
 * @param {function} listen called after they change the history, with {forgotten}: the id of a
 *   conversation that was deleted, null for all, undefined for none.
 */
export function onOtherTabs(listen) {
  others?.addEventListener("message", ({ data }) => listen(data));
}

/** What is kept, the newest first: summaries. It fails where the browser keeps nothing. */
export async function listConversations() {
  const all = await within("readonly", (summaries) => result(summaries.getAll()));
  return all.sort((a, b) => b.updated - a.updated);
}

/** A conversation that was kept, with what has come of its last answer; undefined for none. */
export const loadConversation = (id) =>
  within("readonly", async (summaries, conversations) => {
    const [summary, found] = await Promise.all(
      [summaries, conversations].map((store) => result(store.get(id))),
    );
    if (summary?.answer) found.turns.at(-1).answer = summary.answer;
    return found;
  }).catch(() => undefined);

/**
 * Keep a conversation, and give up the oldest ones beyond the cap. It gets the time, and an id of
 * its own if another tab has gone on with the one that it was.
 * @returns {Promise<boolean>} whether it is kept: it may be too large, or the disk full, or the
 *   browser may keep nothing.
 */
export async function saveConversation(conversation) {
  const bytes = sizeOf(conversation);
  if (bytes > MOST_BYTES) return false;
  const save = within("readwrite", async (summaries, conversations) => {
    const all = await result(summaries.getAll());
    const last = all.find(({ id }) => id === conversation.id)?.updated;
    const isOurs = last === undefined || last === conversation.updated;
    const id = isOurs ? conversation.id : newId();
    const updated = Math.max(Date.now(), ...all.map((each) => each.updated + 1));
    for (const each of surplus(all, id, bytes)) {
      summaries.delete(each.id);
      conversations.delete(each.id);
    }
    summaries.put({ id, title: conversation.title, updated, bytes });
    conversations.put({ ...conversation, id, updated });
    return { id, updated };
  });
  return save.then(
    (kept) => {
      Object.assign(conversation, kept);
      others?.postMessage({});
      return true;
    },
    () => false,
  );
}

/** Keep what has come of the last answer of a conversation that is kept already. */
export const saveAnswer = ({ id, updated, turns }) =>
  within("readwrite", async (summaries) => {
    const summary = await result(summaries.get(id));
    if (summary?.updated === updated) summaries.put({ ...summary, answer: turns.at(-1).answer });
  }).catch(() => {});

/** An id for a conversation. */
export const newId = () => crypto.randomUUID?.() ?? String(Math.random());

/** Which of all conversations are too many beside one of some bytes. */
function surplus(all, id, bytes) {
  const older = all.filter((each) => each.id !== id).sort((a, b) => b.updated - a.updated);
  let sum = bytes;
  return older.filter((each, index) => {
    sum += each.bytes;
    return sum > MOST_BYTES || index + 1 >= MOST_CONVERSATIONS;
  });
}

function sizeOf(conversation) {
  const images = conversation.turns.flatMap((turn) => turn.images);
  const pixels = images.reduce((sum, image) => sum + image.blob.size + (image.shown?.size ?? 0), 0);
  return pixels + JSON.stringify(conversation.turns).length;
}

/** Forget a conversation. */
export const deleteConversation = (id) => forget(id, (store) => store.delete(id));

/** Forget everything. */
export const deleteAll = () => forget(null, (store) => store.clear());

async function forget(forgotten, remove) {
  await within("readwrite", (...stores) => stores.forEach(remove));
  others?.postMessage({ forgotten });
}
