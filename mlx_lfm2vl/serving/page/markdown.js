// Markdown as elements: headings, lists, tables, quotes, code, emphasis, links of the web.
// HTML in it stays text, and no picture is fetched. The time is linear in the length of a block.

import { make } from "./dom.js";

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`\s]*)/;
const HEADING = /^ {0,3}(#{1,6})(?:\s(.*))?$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?:\s+|$)/;
const QUOTE = /^ {0,3}> ?/;
const DIVIDER = /^\|?:?-+:?(?:\|:?-+:?)*\|?$/; // without its spaces
const DEEPEST = 8; // lists in lists, emphasis in emphasis; below it stays text

/**
 * Show Markdown in an element. What is there already, from a shorter piece of the same text, stays:
 * whole blocks, and the begin of a list or of code. So a stream redraws its end only, and a
 * selection in what was read survives.
 */
export function showMarkdown(parent, text) {
  showParts(parent, splitBlocks(text.split(/\r?\n/)), 0);
}

/** Show parts, {source, draw, grow} of each, in an element; `grow` may be absent. */
function showParts(parent, parts, depth) {
  const shown = parent.sources ?? [];
  let same = 0;
  while (same < shown.length && shown[same] === parts[same]?.source) same += 1;
  const next = parent.childNodes[same];
  if (next && parts[same]?.grow?.(next, depth)) same += 1;
  while (parent.childNodes.length > same) parent.lastChild.remove();
  parent.append(...parts.slice(same).map((part) => part.draw(depth)));
  parent.sources = parts.map((part) => part.source);
  return parent;
}

/**
 * Cut lines into blocks, each with its source, a function that draws it, and maybe one that makes
 * it of the element of a shorter one, and returns whether it could.
 */
function splitBlocks(lines) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (!lines[at].trim()) {
      at += 1;
      continue;
    }
    const [length, draw, grow] = nextBlock(lines, at);
    blocks.push({ source: lines.slice(at, at + length).join("\n"), draw, grow });
    at += length;
  }
  return blocks;
}

/** The number of lines of the block that begins at a line, and how it is drawn and grows. */
function nextBlock(lines, at) {
  const line = lines[at];
  const fence = line.match(FENCE);
  if (fence) return fenced(lines, at, fence);
  const heading = line.match(HEADING);
  if (heading) {
    // The page has headings of its own above those of an answer.
    const words = (heading[2] ?? "").trim().replace(/\s#+$/, "");
    return [1, (depth) => withInline(make(`h${Math.min(6, heading[1].length + 2)}`), words, depth)];
  }
  if (RULE.test(line)) return [1, () => make("hr")];
  if (QUOTE.test(line)) {
    const inner = run(lines, at, (each) => QUOTE.test(each)).map((each) => each.replace(QUOTE, ""));
    return [inner.length, (depth) => nested(make("blockquote"), inner, depth)];
  }
  if (isTable(lines, at)) {
    const rows = run(lines, at, (each) => each.trim() && each.includes("|"));
    return [rows.length, (depth) => table(rows, depth)];
  }
  if (ITEM.test(line)) return list(lines, at);
  const words = run(
    lines,
    at,
    (each, index) => each.trim() && (index === at || !begins(lines, index)),
  );
  return [
    words.length,
    (depth) => withInline(make("p"), words.map((each) => each.trim()).join("\n"), depth),
  ];
}

/** The lines from `at` on that pass a test. */
function run(lines, at, passes) {
  let end = at;
  while (end < lines.length && passes(lines[end], end)) end += 1;
  return lines.slice(at, end);
}

const begins = (lines, at) =>
  [FENCE, HEADING, RULE, QUOTE, ITEM].some((start) => start.test(lines[at])) || isTable(lines, at);

const isTable = (lines, at) =>
  lines[at].includes("|") && DIVIDER.test((lines[at + 1] ?? "").replaceAll(/\s/g, ""));

function nested(parent, lines, depth) {
  if (depth < DEEPEST) return showParts(parent, splitBlocks(lines), depth + 1);
  parent.append(lines.join("\n"));
  return parent;
}

function fenced(lines, at, [, marks, language]) {
  const isEnd = (line) => line.trim().startsWith(marks) && !line.trim().replaceAll(marks[0], "");
  const inner = run(lines, at + 1, (line) => !isEnd(line));
  const isClosed = at + 1 + inner.length < lines.length;
  const { draw, grow } = codePart(inner.join("\n"), language);
  return [inner.length + (isClosed ? 2 : 1), draw, grow];
}

/** Show code in an element; a longer piece of it is added to what is there already. */
export function showCode(parent, text, language) {
  showParts(parent, [codePart(text, language)], 0);
}

function codePart(text, language) {
  const grow = (node) => {
    const shown = node.nodeName === "PRE" ? node.firstChild.firstChild : null;
    if (!shown || !text.startsWith(shown.data) || node.ariaLabel !== codeLabel(language))
      return false;
    shown.appendData(text.slice(shown.data.length));
    return true;
  };
  return { source: `${codeLabel(language)}: ${text}`, draw: () => codeBlock(text, language), grow };
}

/** A block of code, which can be scrolled by keyboard. */
export const codeBlock = (text, language = "") =>
  make(
    "pre",
    { tabindex: "0", role: "group", "aria-label": codeLabel(language) },
    make("code", {}, text),
  );

const codeLabel = (language) => `Code ${language}`.trim();

function list(lines, at) {
  const isNumbered = /\d/.test(lines[at].match(ITEM)[2]);
  const indent = lines[at].match(ITEM)[1].length;
  const items = [];
  let offset = 0; // of the text of the last item, from the left
  let end = at;
  while (end < lines.length) {
    const item = lines[end].match(ITEM);
    if (item && item[1].length <= indent + 1 && !RULE.test(lines[end])) {
      if (/\d/.test(item[2]) !== isNumbered) break;
      items.push([lines[end].slice(item[0].length)]);
      offset = item[0].length;
    } else if (/^\s{2,}\S/.test(lines[end])) {
      items.at(-1).push(lines[end].replace(new RegExp(`^ {1,${offset}}`), ""));
    } else if (
      !lines[end].trim() &&
      /^(\s{2,}\S| *([-*+]|\d{1,9}[.)])\s)/.test(lines[end + 1] ?? "")
    ) {
      items.at(-1).push("");
    } else if (lines[end].trim() && lines[end - 1].trim() && !begins(lines, end)) {
      items.at(-1).push(lines[end]); // a paragraph goes on without indentation
    } else break;
    end += 1;
  }
  const start = isNumbered ? String(parseInt(lines[at].match(ITEM)[2], 10)) : undefined;
  const parts = items.map((each) => ({
    source: each.join("\n"),
    draw: (depth) => listItem(each, depth),
  }));
  const tag = isNumbered ? "ol" : "ul";
  const draw = (depth) => showParts(make(tag, { start }), parts, depth);
  const grow = (node, depth) => {
    const isSame = node.localName === tag && node.getAttribute("start") === (start ?? null);
    return isSame && Boolean(showParts(node, parts, depth));
  };
  return [end - at, draw, grow];
}

function listItem(lines, depth) {
  const item = nested(make("li"), lines, depth);
  const [first] = item.childNodes;
  if (first?.nodeName === "P") first.replaceWith(...first.childNodes);
  return item;
}

function table(lines, depth) {
  const [head, divider, ...rows] = lines.map(cells);
  const align = divider.map((cell) =>
    cell.endsWith(":") ? (cell.startsWith(":") ? "center" : "right") : "left",
  );
  const row = (tag, texts) =>
    make(
      "tr",
      {},
      ...head.map((_, index) =>
        withInline(make(`${tag}.${align[index] ?? "left"}`), texts[index] ?? "", depth),
      ),
    );
  return make(
    "div.scroll",
    { tabindex: "0", role: "group", "aria-label": "Table" },
    make(
      "table",
      {},
      make("thead", {}, row("th", head)),
      make("tbody", {}, ...rows.map((texts) => row("td", texts))),
    ),
  );
}

/** The cells of a line of a table; a bar after a backslash belongs to its cell. */
function cells(line) {
  const inner = line.trim().replace(/^\|/, "").replace(/\|$/, "");
  return inner.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function withInline(parent, text, depth) {
  parent.append(...inline(text, depth));
  return parent;
}

// Marks that open and close, the longest first. An underscore inside a word is no mark.
const MARKS = [
  ["***", "strong", "em"],
  ["**", "strong"],
  ["__", "strong"],
  ["~~", "del"],
  ["*", "em"],
  ["_", "em"],
];
const LINK =
  /^!?\[((?:[^\[\]\\]|\\.){0,500})\]\(([^\s()]{1,2000}(?:\([^\s()]*\)[^\s()]*)?)(?: "[^"]*")?\)/;
const ESCAPED = /^\\([!-/:-@[-`{-~])/;

/** The text and elements of a line of Markdown. */
function inline(text, depth) {
  const nodes = [];
  const missing = new Set(); // marks that do not occur further on, so that nobody looks again
  let plain = "";
  let at = 0;
  const put = (node, length) => {
    if (plain) nodes.push(plain);
    plain = "";
    nodes.push(node);
    at += length;
  };
  while (at < text.length) {
    const rest =
      text[at] === "\\" || text[at] === "[" || text[at] === "!" ? text.slice(at, at + 2600) : "";
    const found =
      escaped(rest) ??
      (text[at] === "\n" ? [make("br"), 1] : null) ??
      code(text, at, missing) ??
      link(rest, depth) ??
      emphasis(text, at, depth, missing);
    if (found) put(...found);
    else plain += text[at++];
  }
  return plain ? [...nodes, plain] : nodes;
}

function escaped(rest) {
  const found = rest.match(ESCAPED);
  return found ? [found[1], 2] : null;
}

function code(text, at, missing) {
  if (text[at] !== "`") return null;
  const marks = text.slice(at).match(/^`+/)[0];
  const end = closing(text, marks, at + marks.length, missing);
  if (end < 0) return [marks, marks.length];
  return [
    make("code", {}, text.slice(at + marks.length, end).replace(/^ (.+) $/, "$1")),
    end + marks.length - at,
  ];
}

/** A link of the web, with its host if the text does not say it; any other link is text. */
function link(rest, depth) {
  const found = rest.match(LINK);
  if (!found) return null;
  const [all, text, address] = found;
  const url = webAddress(address);
  if (!url || all.startsWith("!") || depth >= DEEPEST) return [text || address, all.length];
  const anchor = make("a", {
    href: url.href,
    target: "_blank",
    rel: "noopener noreferrer nofollow",
  });
  withInline(anchor, text || address, DEEPEST);
  if (webAddress(text)?.host !== url.host) anchor.append(make("span.host", {}, ` (${url.host})`));
  return [anchor, all.length];
}

function webAddress(address) {
  const url = URL.canParse(address) ? new URL(address) : null;
  return url && ["http:", "https:"].includes(url.protocol) ? url : null;
}

function emphasis(text, at, depth, missing) {
  for (const [mark, outer, inner] of MARKS) {
    if (text[at] !== mark[0] || !text.startsWith(mark, at) || depth >= DEEPEST) continue;
    if (!/\S/.test(text[at + mark.length] ?? " ")) continue;
    if (mark[0] === "_" && /\w/.test(text[at - 1] ?? "")) continue;
    const end = closing(text, mark, at + mark.length + 1, missing);
    if (end < 0 || /\s/.test(text[end - 1])) continue;
    if (mark[0] === "_" && /\w/.test(text[end + mark.length] ?? "")) continue;
    const node = make(outer);
    withInline(
      inner ? node.appendChild(make(inner)) : node,
      text.slice(at + mark.length, end),
      depth + 1,
    );
    return [node, end + mark.length - at];
  }
  return null;
}

/** Where a mark closes; a single mark is not the half of a double one. */
function closing(text, mark, from, missing) {
  if (missing.has(mark)) return -1;
  let end = text.indexOf(mark, from);
  while (
    end >= 0 &&
    (text[end + mark.length] === mark[0] || (mark.length === 1 && text[end - 1] === mark))
  ) {
    const length = text.slice(end).match(mark[0] === "`" ? /^`+/ : /^[*_~]+/)[0].length;
    if (length === 3 && mark.length < 3 && mark[0] !== "`") return end + 3 - mark.length;
    end = text.indexOf(mark, end + length);
  }
  if (end < 0) missing.add(mark);
  return end;
}
