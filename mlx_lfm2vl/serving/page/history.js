// The list of conversations that this browser keeps.

import { find, iconButton, make } from "./dom.js";
import { isSure } from "./dialogs.js";
import { deleteAll, deleteConversation, listConversations } from "./store.js";

const when = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

/**
 * Make the list work.
 * @param {function} open called with the id of a conversation to show.
 * @param {function} forgotten called with the id of one that was deleted, or with null for all.
 */
export function startHistory({ open, forgotten }) {
  find("history-open").addEventListener("click", () => showHistory());
  find("history-list").addEventListener("click", async (event) => {
    const item = event.target.closest("li");
    if (event.target.closest(".open")) open(item.dataset.id);
    else if (event.target.closest(".quiet")) {
      if (!(await isSure(`Delete “${item.querySelector(".name").textContent}”?`))) return;
      await remove(() => deleteConversation(item.dataset.id), item.dataset.id);
    }
  });
  find("history-clear").addEventListener("click", async () => {
    if (await isSure("Delete all conversations?")) await remove(deleteAll, null);
  });

  async function remove(work, id) {
    await work();
    forgotten(id);
    await showHistory();
    find("history-close").focus(); // the button that had the focus may be gone
  }
}

/** Show what is kept now; `current` is the id of the conversation on the page. */
export async function showHistory(current = find("history-list").dataset.current) {
  const list = find("history-list");
  list.dataset.current = current ?? "";
  if (find("history").hidden) return;
  const all = await listConversations().catch(() => null);
  const focus = focusIn(list);
  list.replaceChildren(...(all ?? []).map((each) => item(each, each.id === current)));
  if (focus) list.querySelector(focus)?.focus();
  find("history-hint").textContent = hint(all);
  find("history-clear").hidden = !all?.length;
}

/** A selector of the button in the list that has the focus; empty if none has. */
function focusIn(list) {
  const button = document.activeElement;
  if (!list.contains(button)) return "";
  const kind = button.classList.contains("open") ? "open" : "quiet";
  return `[data-id="${button.closest("li").dataset.id}"] .${kind}`;
}

function hint(all) {
  if (!all) return "This browser keeps nothing for this page.";
  if (!all.length) return "Nothing is kept yet. Conversations stay in this browser only.";
  return "Kept in this browser only.";
}

function item({ id, title, updated }, isCurrent) {
  const open = make(
    "button.open",
    { type: "button", "aria-current": isCurrent ? "true" : undefined },
    make("span.name", {}, title),
    make("time", {}, when.format(updated)),
  );
  return make(
    "li",
    { "data-id": id },
    open,
    iconButton("delete", `Delete “${title}”`, () => {}),
  );
}
