// The keyboard: moving through the feed, opening and closing an event, pausing, searching.

import { rowOf } from "./detail.js";
import { togglePause } from "./feed.js";
import { $, feed } from "./page.js";
import { closeEvent, openEvent } from "./route.js";
import { state } from "./state.js";

/** Where a key moves in the feed, following the ARIA practices for role=feed, and also with arrows. */
function step(key, row) {
  switch (key) {
    case "ArrowDown":
    case "PageDown":
    case "j":
      return row ? row.nextElementSibling : feed.firstElementChild;
    case "ArrowUp":
    case "PageUp":
    case "k":
      return row?.previousElementSibling;
    case "Home":
      return feed.firstElementChild;
    case "End":
      return feed.lastElementChild;
    default:
      return undefined;
  }
}

export function onKey(event) {
  const { key } = event;
  const focused = document.activeElement;
  const row = focused.closest("#feed > article");
  const inDetail = $("detail").contains(focused);
  if (!state.inside || event.altKey || event.metaKey || event.shiftKey || event.isComposing) return;
  if (event.ctrlKey) {
    if (!row || (key !== "Home" && key !== "End")) return;
    (key === "Home" ? $("pause") : state.more ? $("older") : $("sign-out")).focus();
  } else if (key === " " && !focused.matches("input, select, button, pre")) {
    togglePause();
  } else if (key === "Escape" && state.shownEvent && focused !== $("q")) {
    closeEvent();
  } else if (key === "Enter" && row?.dataset.id) {
    openEvent(row.dataset.id);
  } else if (key === "/" && row) {
    // Single-character keys work only in the feed and the detail: elsewhere they would interfere with dictation (WCAG
    // 2.1.4).
    $("q").focus();
  } else if (inDetail && (key === "j" || key === "k")) {
    const next = step(key, rowOf(state.shownEvent));
    if (!next?.dataset.id) return;
    next.scrollIntoView({ block: "nearest" });
    openEvent(next.dataset.id);
  } else if (row || (focused === document.body && key !== "j" && key !== "k")) {
    const next = step(key, row);
    if (next === undefined) return;
    next?.focus();
  } else return;
  event.preventDefault();
}
