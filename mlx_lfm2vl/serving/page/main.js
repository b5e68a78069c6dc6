// The page as a whole: which model is asked, and what keys and buttons do.

import { find, isComposing } from "./dom.js";
import { getJson, onUnauthorized, postJson, RequestError } from "./api.js";
import { askToken, isAsked, notice, startDialogs } from "./dialogs.js";
import { setLimits } from "./limits.js";
import { startSchema } from "./schema.js";
import { imageKnobs, showDefaults, startSettings } from "./settings.js";
import { planAgain, planMissing } from "./attachments.js";
import { focusDraft, offerSkills, startComposer } from "./composer.js";
import { closePanels, setPanel, startPanels } from "./panels.js";
import { startFollowing } from "./following.js";
import { startHistory } from "./history.js";
import {
  begin,
  forget,
  rename,
  reopen,
  send,
  sentWith,
  showTitle,
  startPlaces,
  stop,
} from "./conversation.js";

/** What a request about images says: the model, and how it cuts them. */
const imageFields = () => ({ model: find("model").value, ...imageKnobs() });

/** Show which models the server has now; it may have been started after the page, or again. */
async function showModels() {
  const { data } = await getJson("v1/models");
  const names = data.map(({ id }) => id);
  const select = find("model");
  const shown = [...select.options].map(({ value }) => value);
  if (names.join("\n") === shown.join("\n")) return planMissing();
  const chosen = select.value;
  select.replaceChildren(...names.map((name) => new Option(name, name, false, name === chosen)));
  select.disabled = names.length < 2;
  return showModel();
}

async function showModel() {
  const { model, max_images: mostImages } = await postJson("v1/plan", {
    model: find("model").value,
  });
  showTitle();
  showDefaults(model.defaults);
  setLimits({ tokens: model.context, images: mostImages });
  offerSkills(model.skills);
  await planAgain();
}

/** Do something that asks the server, and say so if that fails. */
const trying = (work) => async () => {
  try {
    await work();
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    notice(error.message);
  }
};

function start() {
  onUnauthorized(askToken);
  startDialogs();
  startPanels();
  startFollowing();
  startComposer({ send, stop, imageFields, sentWith });
  startSettings(trying(planAgain));
  startSchema((isOn) => {
    find("schema-on").hidden = !isOn;
  });
  startHistory({ open: reopen, forgotten: forget, renamed: rename });
  startPlaces();
  find("new").addEventListener("click", begin);
  find("model").addEventListener("change", trying(showModel));
  find("schema-on").addEventListener("click", () => {
    setPanel("settings", true);
    find("schema-text").focus();
  });
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault(); // the address stays that of the page
    focusDraft();
  });
  addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || isComposing(event) || isAsked()) return;
    if (!closePanels()) stop();
  });
  addEventListener("focus", trying(showModels));
  offerSkills([]);
  trying(showModels)();
}

start();
