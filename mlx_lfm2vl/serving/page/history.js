// The list of conversations that this browser keeps: to open, search, rename and delete them.

import { counted, find, iconButton, isComposing, make } from "./dom.js";
import { isSure, notice } from "./dialogs.js";
import {
  deleteAll,
  deleteConversation,
  listConversations,
  nameOf,
  renameConversation,
} from "./store.js";

const LONGEST_NAME = 100; // letters
const when = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
let heard = {};

/**
 * Make the list work.
 * @param {Object} actions
 * @param {function} actions.open called with the id of a conversation to show.
 * @param {function} actions.forgotten called with the id of one that was deleted; null for all.
 * @param {function} actions.renamed called with {id, name} of one that has another name.
 */
export function startHistory(actions) {
  heard = actions;
  find("history-open").addEventListener("click", () => showHistory());
  find("history-clear").addEventListener("click", async () => {
    if (await isSure("Delete all conversations?")) await remove(deleteAll, null);
  });
  const search = find("history-search");
  search.addEventListener("input", () => showHistory());
  search.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || isComposing(event) || !search.value) return;
    event.stopPropagation(); // a second one closes the panel
    event.preventDefault();
    search.value = "";
    showHistory();
  });
}

/** Show what is kept now; `current` is the id of the conversation on the page. */
export async function showHistory(current = find("history-list").dataset.current) {
  const list = find("history-list");
  list.dataset.current = current ?? "";
  if (find("history").hidden) return;
  const wanted = find("history-search").value;
  const all = await listConversations(wanted).catch(() => null);
  const isLate = wanted !== find("history-search").value || list.querySelector("input");
  if (isLate) return; // the list is shown again when the search or the name is complete
  const focus = focusIn(list);
  list.replaceChildren(...(all ?? []).map((each) => item(each, each.id === current)));
  if (focus) buttonOf(focus)?.focus();
  find("history-hint").textContent = hint(all, wanted);
  find("history-search").hidden = !all?.length && !wanted;
  find("history-clear").hidden = !all?.length || Boolean(wanted);
}

/** Which button of the list has the focus: {id, index}, or null. */
function focusIn(list) {
  const button = document.activeElement;
  if (!list.contains(button)) return null;
  const row = button.closest("li");
  return { id: row.dataset.id, index: [...row.children].indexOf(button) };
}

const rowOf = (id) => find("history-list").querySelector(`[data-id="${id}"]`);

const buttonOf = ({ id, index }) => rowOf(id)?.children[index];

function hint(all, wanted) {
  if (!all) return "This browser keeps nothing for this page.";
  if (wanted && !all.length) return "Nothing found.";
  if (wanted) return `${counted(all.length, "conversation")} found.`;
  if (!all.length) return "Nothing is kept yet. Conversations stay in this browser only.";
  return "Kept in this browser only.";
}

function item(summary, isCurrent) {
  const { id, updated } = summary;
  const name = nameOf(summary);
  const open = make(
    "button.open",
    {
      type: "button",
      "aria-current": isCurrent ? "true" : undefined,
      click: () => heard.open(id),
    },
    make("span.name", {}, name),
    make("time", {}, when.format(updated)),
  );
  const forget = async () => {
    if (await isSure(`Delete “${name}”?`)) await remove(() => deleteConversation(id), id);
  };
  return make(
    "li",
    { "data-id": id },
    open,
    iconButton("rename", `Rename “${name}”`, () => editName(id, name)),
    iconButton("delete", `Delete “${name}”`, forget),
  );
}

async function remove(work, id) {
  await work();
  heard.forgotten(id);
  await showHistory();
  find("history-close").focus(); // the button that had the focus may be gone
}

/** Let the reader write a name in the place of the old one; Escape leaves it as it was. */
function editName(id, name) {
  const field = make("input", {
    "aria-label": `Name of “${name}”`,
    maxlength: LONGEST_NAME,
    autocomplete: "off",
    value: name,
  });
  const before = field.value; // a field has no line breaks, which an old title may have
  let isEnded = false;
  const end = async (written) => {
    if (isEnded) return; // taking the field away takes its focus, too
    isEnded = true;
    const hadFocus = field === document.activeElement;
    field.remove();
    if (written !== before.trim()) await keepName(id, written);
    await showHistory();
    if (hadFocus) buttonOf({ id, index: 1 })?.focus();
  };
  field.addEventListener("blur", () => end(field.value.trim()));
  field.addEventListener("keydown", (event) => {
    if (isComposing(event)) return;
    if (event.key === "Enter") end(field.value.trim());
    if (event.key !== "Escape") return;
    event.stopPropagation(); // the panel stays open
    end(before.trim());
  });
  rowOf(id).replaceChildren(field);
  field.focus();
  field.select();
}

async function keepName(id, name) {
  try {
    await renameConversation(id, name);
  } catch {
    notice("The name is not kept: the browser gives it no room.");
    return;
  }
  heard.renamed({ id, name });
}
