// The settings: sampling, length, and how images are cut. Those left empty are the model's own.

import { find, make } from "./dom.js";
import { ofBrowser } from "./kept.js";

const KEPT = "mlx_lfm2vl.settings";
const number = (name, label, limits) => ({ name, label, type: "number", limits });
const choice = (name, label, values) => ({ name, label, type: "choice", values });

// Names are those of a request.
const SAMPLING = [
  number("max_completion_tokens", "Most tokens", { min: 1, step: 1 }),
  number("temperature", "Temperature", { min: 0, max: 100, step: "any" }),
  number("top_p", "Top p", { min: 0, max: 1, step: "any" }),
  number("top_k", "Top k", { min: 0, step: 1 }),
  number("min_p", "Min p", { min: 0, max: 1, step: "any" }),
  number("repetition_penalty", "Repetition penalty", { min: 0, max: 100, step: "any" }),
  number("seed", "Seed", { min: 0, step: 1, placeholder: "random" }),
];
const IMAGES = [
  choice("do_image_splitting", "Large images", { "": "usual", true: "tiles", false: "one view" }),
  choice("use_thumbnail", "Thumbnail beside tiles", { "": "usual", true: "yes", false: "no" }),
  number("max_tiles", "Most tiles", { min: 1, max: 100, step: 1 }),
  number("min_image_tokens", "Fewest tokens of a view", { min: 1, step: 1 }),
  number("max_image_tokens", "Most tokens of a view", { min: 1, step: 1 }),
];
const FIELDS = [...SAMPLING, ...IMAGES];

/**
 * Show the settings, as they were left.
 * @param {function} changed called after a change.
 */
export function startSettings(changed) {
  const kept = keptSettings();
  const form = find("settings-form");
  form.append(
    make("label", { for: "set-system" }, "System message"),
    make("textarea", { id: "set-system", name: "system", rows: "2" }, kept.system ?? ""),
    group("Answer", SAMPLING, kept),
    group("Images", IMAGES, kept),
    make("button.small", { type: "reset" }, "Reset"),
  );
  const keep = () => {
    ofBrowser.set(KEPT, JSON.stringify(Object.fromEntries(new FormData(form))));
    changed();
  };
  form.addEventListener("change", keep);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", (event) => {
    event.preventDefault(); // it would bring back what was kept, not what is usual
    for (const field of form.elements) field.value = "";
    keep();
  });
}

/** The settings as they were left; none if another version of the page left them otherwise. */
function keptSettings() {
  try {
    return JSON.parse(ofBrowser.get(KEPT)) ?? {};
  } catch {
    return {};
  }
}

/** Show what holds where nothing is set: values by the name of their field. */
export function showDefaults(defaults) {
  for (const { name, values } of FIELDS) {
    if (values) find(`set-${name}`).options[0].text = `usual: ${values[defaults[name]]}`;
    else if (name in defaults) find(`set-${name}`).placeholder = String(defaults[name]);
  }
}

/** The system message; empty for none. */
export const systemMessage = () => find("set-system").value.trim();

/** The fields of a request that set sampling and length. */
export const samplingKnobs = () => given(SAMPLING);

/** The fields of a request that set how images are cut. */
export const imageKnobs = () => given(IMAGES);

/** The values of those fields that are set and valid. */
function given(fields) {
  const inputs = fields
    .map(({ name }) => find(`set-${name}`))
    .filter((input) => input.value && input.validity.valid);
  return Object.fromEntries(inputs.map((input) => [input.name, JSON.parse(input.value)]));
}

function group(title, fields, kept) {
  const rows = fields.map((field) =>
    make(
      "div.field",
      {},
      make("label", { for: `set-${field.name}` }, field.label),
      control(field, kept),
    ),
  );
  return make("fieldset", {}, make("legend", {}, title), ...rows);
}

function control({ name, type, limits, values }, kept) {
  const id = `set-${name}`;
  if (type === "number")
    return make("input", {
      id,
      name,
      type,
      inputmode: "decimal",
      value: kept[name] ?? "",
      ...limits,
    });
  const options = Object.entries(values).map(([value, text]) =>
    make("option", { value, selected: value === (kept[name] ?? "") }, text),
  );
  return make("select", { id, name }, ...options);
}

/** Whether every setting is in its range; shows the first that is not. */
export const settingsAreValid = () =>
  FIELDS.every(({ name }) => find(`set-${name}`).validity.valid);
