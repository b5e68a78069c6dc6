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
  find("history-hint").textContent = all.length
    ? "Kept in this browser only."
    : "Nothing is kept yet. Conversations stay in this browser only.";
  find("history-clear").hidden = !all.length;
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
