// The database that this browser keeps for the page, and transactions over all of its stores.

const NAME = "mlx_lfm2vl";
const VERSION = 2; // 1 had no pictures of their own
const KEYS = { summaries: "id", conversations: "id", pictures: "key" }; // by store

/** A request of IndexedDB as a promise. */
export const result = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

let opened = null;

function database() {
  opened ??= open();
  return opened;
}

/** Open it; while another tab holds an older database, this and every later attempt fails. */
function open() {
  let refuse;
  const blocked = new Promise((_, reject) => {
    refuse = reject;
  });
  const connected = connect(refuse);
  // A blocked request goes on when that tab is closed; a second one would only wait behind it.
  connected.then(() => {
    opened = connected;
  }, forgetDatabase);
  return Promise.race([connected, blocked]);
}

/** A connection; `refuse` is called with the reason if it has to wait for another tab. */
async function connect(refuse) {
  const request = indexedDB.open(NAME, VERSION);
  request.onupgradeneeded = () => {
    for (const [name, keyPath] of Object.entries(KEYS)) {
      if (!request.result.objectStoreNames.contains(name))
        request.result.createObjectStore(name, { keyPath });
    }
  };
  request.onblocked = () => refuse(new Error("another tab holds an older database"));
  const found = await result(request);
  found.onclose = forgetDatabase; // the reader may clear what the browser keeps of this page
  found.onversionchange = () => {
    found.close(); // or a tab with a newer page would wait for this one
    forgetDatabase();
  };
  return found;
}

function forgetDatabase() {
  opened = null;
}

/**
 * Run a function on the stores in one transaction, which happens as a whole or not at all.
 * @param {string} mode "readonly" or "readwrite".
 * @param {function} work takes {summaries, conversations, pictures}; awaits nothing but `result`.
 * @returns {Promise} what the function returns.
 */
export async function within(mode, work) {
  const names = Object.keys(KEYS);
  const transaction = (await database()).transaction(names, mode);
  const ended = new Promise((resolve, reject) => {
    transaction.oncomplete = resolve;
    transaction.onabort = () => reject(transaction.error);
  });
  const stores = Object.fromEntries(names.map((name) => [name, transaction.objectStore(name)]));
  const done = Promise.resolve(work(stores)).catch((error) => {
    transaction.abort();
    throw error;
  });
  const [found] = await Promise.all([done, ended]);
  return found;
}
