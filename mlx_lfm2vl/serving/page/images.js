// The pictures of a question: from files to what is sent, what is shown, and what it costs.
//
// An image is {name, blob, shown, width, height, knobs, plan, problem}: `blob` is sent, `shown` is
// looked at instead where the browser cannot show `blob`, `plan` is the server's for the image
// options `knobs`, `problem` a sentence.

import { postJson, RequestError } from "./api.js";
import { excess } from "./limits.js";

// What every browser shows, and the server reads. All else goes through the server.
const SHOWN_TYPES = ["image/jpeg", "image/png", "image/gif", "image/webp"];
const urls = new Map();

/** The address of a picture in this page. */
export function pictureUrl(image) {
  if (!urls.has(image)) urls.set(image, URL.createObjectURL(image.shown ?? image.blob));
  return urls.get(image);
}

/** Let go of the addresses of pictures that are no longer on the page. */
export function releasePictures() {
  for (const url of urls.values()) URL.revokeObjectURL(url);
  urls.clear();
}

/**
 * Make the images of a file: one, or one for each page of a PDF.
 * @param {Object} knobs model and image options, which say how large pages are drawn.
 * @returns {Promise<{images: Object[], left: number}>} `left` pages are too many to be drawn.
 */
export async function imagesOf(file, knobs) {
  const blob = await copyOf(file);
  const size = SHOWN_TYPES.includes(file.type) ? await sizeOf(blob) : null;
  if (size) return { images: [{ name: file.name, blob, ...size }], left: 0 };
  const found = await postJson("v1/preview", { image: await dataUri(blob), ...knobs });
  const images = found.images.map(({ page, size: [height, width], url }) => {
    const drawn = blobOf(url);
    if (page) return { name: `${file.name}, page ${page}`, blob: drawn, width, height };
    return { name: file.name, blob, shown: drawn, width, height };
  });
  return { images, left: found.count - images.length };
}

/** What a file holds now. Later it may be gone: a dragged screenshot has no lasting file. */
async function copyOf(file) {
  const tooMuch = excess([{ blob: file }]);
  if (tooMuch) throw new RequestError(`${tooMuch}.`);
  try {
    return new Blob([await file.arrayBuffer()], { type: file.type });
  } catch {
    throw new RequestError("It cannot be read. If it is a folder, choose the pictures in it.");
  }
}

/** The size in pixels of a picture that the browser can show, else null. */
async function sizeOf(blob) {
  const url = URL.createObjectURL(blob);
  const picture = new Image();
  picture.src = url;
  try {
    await picture.decode();
    return { width: picture.naturalWidth, height: picture.naturalHeight };
  } catch {
    return null;
  } finally {
    URL.revokeObjectURL(url);
  }
}

/**
 * Ask the server into which views an image is cut; sets its `plan`, or its `problem`. A failure
 * that is not the image's leaves both empty, and is thrown.
 */
export async function planImage(image, knobs) {
  image.knobs = knobs; // a later question may be answered before this one
  const found = await planned(image, knobs);
  if (image.knobs === knobs) Object.assign(image, found);
}

async function planned({ width, height }, knobs) {
  try {
    const found = await postJson("v1/plan", { images: [{ width, height }], ...knobs });
    return { plan: found.images[0], problem: "" };
  } catch (error) {
    if (error.status !== 400) throw error;
    return { plan: null, problem: error.message };
  }
}

/** How an image is cut, in words: "2 × 3 tiles + thumbnail". */
export function viewsInWords({ grid: [rows, columns], views }) {
  const tiles = rows * columns;
  if (tiles === 1) return "one view";
  return `${columns} × ${rows} tiles${views.length > tiles ? " + thumbnail" : ""}`;
}

/** A blob as a data URI. */
export const dataUri = (blob) =>
  new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new RequestError("A picture cannot be read any more."));
    reader.readAsDataURL(blob);
  });

function blobOf(uri) {
  const [head, body] = uri.split(",");
  const bytes = Uint8Array.from(atob(body), (letter) => letter.charCodeAt(0));
  return new Blob([bytes], { type: head.slice("data:".length, head.indexOf(";")) });
}
