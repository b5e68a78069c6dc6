// Short texts by name that outlive a reload, where the browser lets a page keep anything.

/** Texts in a store of the browser; without it, they last as long as the page. */
function texts(store) {
  const here = new Map();
  return {
    get(name) {
      if (here.has(name)) return here.get(name);
      try {
        return window[store].getItem(name);
      } catch {
        return null; // the store is barred, as in some private windows
      }
    },
    set(name, text) {
      here.set(name, text);
      try {
        window[store].setItem(name, text);
      } catch {
        // It is barred or full.
      }
    },
  };
}

/** What is kept until the tab is closed. */
export const ofTab = texts("sessionStorage");

/** What is kept for every tab of this page. */
export const ofBrowser = texts("localStorage");
