// The conversation scrolls with an answer that grows. Who has scrolled up is left there.

import { find } from "./dom.js";

const NEAR = 120; // pixels from the end, within which the page follows
let isAtEnd = true;

/** Scroll to the end if the reader is there. */
export function follow() {
  if (isAtEnd) find("turns").scrollTop = find("turns").scrollHeight;
}

/** Scroll to the end wherever the reader is. */
export function goToEnd() {
  isAtEnd = true;
  follow();
}

/** Stay at the end of the conversation while it grows, or while the question below it does. */
export function startFollowing() {
  const turns = find("turns");
  let top = 0;
  turns.addEventListener("scroll", () => {
    const left = turns.scrollHeight - turns.scrollTop - turns.clientHeight;
    // One step up ends it, however small; on the way down, the end need not be met exactly.
    isAtEnd = left < 1 || (turns.scrollTop >= top && left < NEAR);
    top = turns.scrollTop;
  });
  new ResizeObserver(follow).observe(turns);
}
