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
