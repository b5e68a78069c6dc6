// How many images a question may have. The server says their number, and the tokens of a model.

import { counted, number } from "./dom.js";

const MEGABYTE = 2 ** 20;
const MOST_BYTES_SENT = 48 * MEGABYTE; // as base64, they fill the body that the server takes

/** `images` of a request, and `tokens` that the model reads; none before the server says them. */
export const limits = { images: Infinity, tokens: Infinity };

/** Keep the limits that the server has told. */
export function setLimits(told) {
  Object.assign(limits, told);
}

/** What is too much about images that are sent together; empty if nothing is. */
export function excess(images) {
  const bytes = images.reduce((sum, { blob }) => sum + blob.size, 0);
  const count = images.length;
  if (count > limits.images)
    return `${counted(count, "image")} in all, but the server takes ${number(limits.images)}`;
  if (bytes > MOST_BYTES_SENT)
    return `${megabytes(bytes)} in all, but the server takes ${megabytes(MOST_BYTES_SENT)}`;
  return "";
}

const megabytes = (bytes) => `${number(Math.ceil(bytes / MEGABYTE))} MB`;
