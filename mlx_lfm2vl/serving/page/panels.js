// The two panels beside the conversation: its history, and the settings.

import { find } from "./dom.js";

const PANELS = ["history", "settings"];
const narrow = matchMedia("(max-width: 60rem)");

/** Make the buttons work that open and close the panels, which are closed at first. */
export function startPanels() {
  for (const name of PANELS) {
    find(`${name}-open`).addEventListener("click", () => setPanel(name, find(name).hidden));
    find(`${name}-close`).addEventListener("click", () => setPanel(name, false));
    setPanel(name, false);
  }
  narrow.addEventListener("change", coverPage);
  addEventListener("click", ({ target }) => {
    // What is inert takes no click: it goes to what lies around.
    if (find("main").inert && target.contains(find("main"))) closePanels();
  });
}

/** On a narrow screen, an open panel covers the page, which then cannot be used. */
function coverPage() {
  find("main").inert = narrow.matches && PANELS.some((name) => !find(name).hidden);
}

/** Open or close a panel. */
export function setPanel(name, isOpen) {
  const hadFocus = find(name).contains(document.activeElement);
  find(name).hidden = !isOpen;
  find(`${name}-open`).setAttribute("aria-expanded", String(isOpen));
  coverPage();
  if (isOpen) find(`${name}-close`).focus();
  else if (hadFocus) find(`${name}-open`).focus();
}

/** Close the panel that has the focus or covers the page; returns whether there was one. */
export function closePanels() {
  const names = PANELS.filter((name) => !find(name).hidden);
  const closed = names.filter(
    (name) => narrow.matches || find(name).contains(document.activeElement),
  );
  for (const name of closed) setPanel(name, false);
  return closed.length > 0;
}

/** Close what covers the page on a narrow screen. */
export function uncover() {
  if (narrow.matches) closePanels();
}
