// Why a question cannot be sent as it is written.

import { excess } from "./limits.js";
import { SKILLS } from "./skills.js";
import { currentSchema, schemaIsValid } from "./schema.js";
import { settingsAreValid } from "./settings.js";
import { sentImages, skillImages } from "./asking.js";

/**
 * A sentence that says what is wrong with a question; empty if it can be sent.
 * @param {Object} draft {mode, text, images}, of which all images are read.
 * @param {Object[]} turns before it.
 */
export function refusal({ mode, text, images }, turns) {
  if (!settingsAreValid()) return "A setting is out of its range.";
  const wrong = images.find((image) => image.problem);
  if (wrong) return `${wrong.name}: ${wrong.problem}`;
  const all = [...turns, { mode, images }];
  const tooMuch = excess(sentImages(all));
  const advice = turns.length ? ", or begin a new conversation" : "";
  if (tooMuch) return `${tooMuch}. Send fewer${advice}.`;
  const { title, needs, least = 1, takesSchema } = SKILLS[mode] ?? { takesSchema: true };
  if (takesSchema && !schemaIsValid())
    return "The JSON Schema in the settings has a mistake. Correct or clear it.";
  if (mode === "ask") return text || images.length ? "" : "Write a question first.";
  if (skillImages(all).length < least)
    return least === 1
      ? `${title} needs an image. Add one first.`
      : `${title} needs ${least} images or more.`;
  if (needs && !text && !(takesSchema && currentSchema()))
    return `${title} needs some words. Write them first.`;
  return "";
}
