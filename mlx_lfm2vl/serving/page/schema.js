// The editor of a JSON Schema: it says where the text is no JSON, and what is no schema.

import { find } from "./dom.js";

const EXAMPLE = {
  type: "object",
  properties: { title: { type: "string" }, total: { type: "number" } },
  required: ["title", "total"],
  additionalProperties: false,
};
const TYPES = ["object", "array", "string", "number", "integer", "boolean", "null"];

/**
 * Read the text of the editor.
 * @returns {{schema: ?Object, problem: string}} one of them; both are empty for an empty text.
 */
export function readSchema(text) {
  if (!text.trim()) return { schema: null, problem: "" };
  let schema;
  try {
    schema = JSON.parse(text);
  } catch (error) {
    return { schema: null, problem: `This is not JSON: ${where(error.message, text)}` };
  }
  if (schema === null || typeof schema !== "object" || Array.isArray(schema)) {
    return { schema: null, problem: 'A schema is an object, such as {"type": "object"}.' };
  }
  const types = [schema.type ?? []].flat();
  const wrong = types.find((type) => !TYPES.includes(type));
  if (wrong !== undefined) {
    return {
      schema: null,
      problem: `There is no type ${JSON.stringify(wrong)}; the types are ${TYPES.join(", ")}.`,
    };
  }
  return { schema, problem: "" };
}

/** A message of the JSON reader with line and column, for which some browsers give a position. */
function where(message, text) {
  const position = message.match(/position (\d+)/);
  if (!position || /line \d+/.test(message)) return `${message}.`;
  const before = text.slice(0, Number(position[1])).split("\n");
  return `${message} (line ${before.length} column ${before.at(-1).length + 1}).`;
}

/**
 * Make the editor work.
 * @param {function} changed called after each change, with whether a schema is in force.
 */
export function startSchema(changed) {
  const editor = find("schema-text");
  const check = () => {
    const { schema, problem } = readSchema(editor.value);
    find("schema-state").textContent =
      problem ||
      (schema ? "Answers will follow this schema." : "No schema: answers are free text.");
    find("schema-state").classList.toggle("problem", Boolean(problem));
    editor.setAttribute("aria-invalid", String(Boolean(problem)));
    find("schema-tidy").disabled = !schema;
    changed(Boolean(schema));
  };
  const write = (text) => {
    editor.value = text;
    check();
    editor.focus();
  };
  editor.addEventListener("input", check);
  find("schema-example").addEventListener("click", () => write(JSON.stringify(EXAMPLE, null, 2)));
  find("schema-tidy").addEventListener("click", () =>
    write(JSON.stringify(readSchema(editor.value).schema, null, 2)),
  );
  find("schema-clear").addEventListener("click", () => write(""));
  check();
}

/** What the editor holds; see `readSchema`. */
const current = () => readSchema(find("schema-text").value);

/** The schema in force, or null. */
export const currentSchema = () => current().schema;

/** Whether the editor is empty or holds a schema. */
export const schemaIsValid = () => !current().problem;
