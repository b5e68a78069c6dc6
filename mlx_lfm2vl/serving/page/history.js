// The list of conversations that this browser keeps, and the two panels beside the page.

import { find, iconButton, make } from "./dom.js";
import { deleteAll, deleteConversation, listConversations } from "./store.js";

const PANELS = ["history", "settings"];
const narrow = matchMedia("(max-width: 60rem)");
const when = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

/**
 * Make the list work.
 * @param {function} open called with the id of a conversation to show.
 * @param {function} forgotten called with the id of one that was deleted, or with null for all.
 */
export function startHistory({ open, forgotten }) {
  for (const name of PANELS) {
    find(`${name}-open`).addEventListener("click", () => setPanel(name, find(name).hidden));
    find(`${name}-close`).addEventListener("click", () => setPanel(name, false));
    setPanel(name, false);
  }
  find("history-open").addEventListener("click", () => showHistory());
  find("history-list").addEventListener("click", async (event) => {
    const item = event.target.closest("li");
    if (event.target.closest(".open")) open(item.dataset.id);
    else if (event.target.closest(".quiet")) {
      await deleteConversation(item.dataset.id);
      forgotten(item.dataset.id);
      await showHistory();
      find("history-close").focus();
    }
  });
  find("history-clear").addEventListener("click", async () => {
    if (!(await isSure("Delete all conversations?"))) return;
    await deleteAll();
    forgotten(null);
    await showHistory();
  });
}

/** Show what is kept now; `current` is the id of the conversation on the page. */
export async function showHistory(current = find("history-list").dataset.current) {
  const list = find("history-list");
  list.dataset.current = current ?? "";
  if (find("history").hidden) return;
  const all = await listConversations();
  list.replaceChildren(...all.map((each) => item(each, each.id === current)));
  find("history-hint").textContent = all.length ? "Kept in this browser only." : "Nothing is kept yet. Conversations stay in this browser only.";
  find("history-clear").hidden = !all.length;
}

/** Open or close a panel; on a narrow screen it covers the page, which then cannot be used. */
export function setPanel(name, isOpen) {
  const hadFocus = find(name).contains(document.activeElement);
  find(name).hidden = !isOpen;
  find(`${name}-open`).setAttribute("aria-expanded", String(isOpen));
  find("main").inert = narrow.matches && isOpen;
  if (isOpen) find(`${name}-close`).focus();
  else if (hadFocus) find(`${name}-open`).focus();
}

/** Close the panel that has the focus or covers the page; returns whether there was one. */
export function closePanels() {
  const names = PANELS.filter((name) => !find(name).hidden);
  const closed = names.filter((name) => narrow.matches || find(name).contains(document.activeElement));
  for (const name of closed) setPanel(name, false);
  return closed.length > 0;
}

/** Close what covers the page on a narrow screen. */
export function uncover() {
  if (narrow.matches) closePanels();
}

function item({ id, title, updated }, isCurrent) {
  const open = make("button.open", { type: "button", "aria-current": isCurrent ? "true" : undefined }, make("span.name", {}, title), make("time", {}, when.format(updated)));
  return make("li", { "data-id": id }, open, iconButton("delete", `Delete “${title}”`, () => {}));
}

function isSure(question) {
  find("sure-text").textContent = question;
  const dialog = find("sure");
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}
