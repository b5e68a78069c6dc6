// The history, in this browser alone: conversations with their pictures, the oldest given up first.

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
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("summaries", { keyPath: "id" });
      request.result.createObjectStore("conversations", { keyPath: "id" });
    };
    result(request).then(resolve, reject);
  });
  return opened;
}

/** Run a function on both stores in one transaction, which happens as a whole or not at all. */
async function within(mode, work) {
  const transaction = (await database()).transaction(["summaries", "conversations"], mode);
  const ended = new Promise((resolve, reject) => {
    transaction.oncomplete = resolve;
    transaction.onabort = () => reject(transaction.error);
  });
  const found = await work(
    transaction.objectStore("summaries"),
    transaction.objectStore("conversations"),
  );
  await ended;
  return found;
}

/** What is kept, the newest first: {id, title, updated, bytes} of each; nothing without a store. */
export async function listConversations() {
  const all = await within("readonly", (summaries) => result(summaries.getAll())).catch(() => []);
  return all.sort((a, b) => b.updated - a.updated);
}

/** A conversation that was kept, or undefined. */
export const loadConversation = (id) =>
  within("readonly", (_, conversations) => result(conversations.get(id)));

/**
 * Keep a conversation, and give up the oldest ones beyond the cap.
 * @returns {Promise<boolean>} whether it is kept: it may be too large, or the disk full.
 */
export async function saveConversation(conversation) {
  const bytes = sizeOf(conversation);
  const { id, title, updated } = conversation;
  const older = (await listConversations()).filter((each) => each.id !== id);
  const given = surplus(older, bytes);
  const isKept = bytes <= MOST_BYTES;
  const save = within("readwrite", (summaries, conversations) => {
    for (const each of isKept ? given : [{ id }]) {
      summaries.delete(each.id);
      conversations.delete(each.id);
    }
    if (!isKept) return;
    summaries.put({ id, title, updated, bytes });
    conversations.put(conversation);
  });
  return save.then(
    () => isKept,
    () => false,
  );
}

/** Which conversations, the newest first, are too many beside one of some bytes. */
function surplus(older, bytes) {
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
export const deleteConversation = (id) =>
  within("readwrite", (summaries, conversations) => {
    summaries.delete(id);
    conversations.delete(id);
  });

/** Forget everything. */
export const deleteAll = () =>
  within("readwrite", (summaries, conversations) => {
    summaries.clear();
    conversations.clear();
  });
