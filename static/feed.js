// The list of rows: new rows on top, as they arrive or when a pause ends; older ones below, page by page; a bounded
// number of rows; and a message when there are none.

import { call, sessionEnded } from "./api.js";
import { $, events, feed, number, scroller } from "./page.js";
import { makeRow, render, summary } from "./rows.js";
import { state } from "./state.js";
import { notice, say, sayNew, showState } from "./status.js";

const KEEP = 2000; // rows in the document, and rows that wait to be shown
const FLUSH_EVERY = 200; // ms between two changes of the list
const WORKSPACE_ID = /^(?!\.{1,2}$)[A-Za-z0-9._:~@-]{1,128}$/;

let waiting = []; // oldest first
let unseen = 0; // events among the waiting rows, and among those dropped while waiting
let trimmed = false;
let flushing = 0;
let flushedAt = 0;
let countTimer = 0;

export function add(item) {
  waiting.push(item);
  if (waiting.length > 2 * KEEP) waiting.splice(0, waiting.length - KEEP - 1);
  if (!item.gap) {
    unseen += 1;
    sayNew();
  }
  if (!state.pause) flushing ||= setTimeout(requestAnimationFrame, flushedAt + FLUSH_EVERY - performance.now(), flush);
  countTimer ||= setTimeout(showCounts, 200);
}

export function showCounts() {
  countTimer = 0;
  const button = $("fresh");
  button.textContent = `${number.format(unseen)} new`;
  button.hidden = !(state.pause && unseen);
  const name = state.view ? `${state.view.workspace} · streamer` : "streamer";
  document.title = unseen && (state.pause || document.hidden) ? `(${number.format(unseen)}) ${name}` : name;
}

/** Show waiting rows: at once after a quiet moment, else five times a second, however fast they arrive. */
function flush() {
  flushing = 0;
  flushedAt = performance.now();
  if (state.pause || !waiting.length) return;
  const items = waiting.slice(-KEEP).reverse();
  if (waiting.length > KEEP) state.more = trimmed = true;
  const rows = document.createDocumentFragment();
  rows.append(...items.map(render));
  if (items.length <= 20) for (const row of rows.children) row.classList.add("new");
  feed.prepend(rows);
  while (feed.childElementCount > KEEP) {
    feed.lastElementChild.remove();
    state.more = trimmed = true;
  }
  waiting = [];
  unseen = 0;
  showCounts();
  showEnds();
  if (!feed.contains(document.activeElement)) setTabStop(feed.firstElementChild);
}

export function clearRows() {
  feed.replaceChildren();
  waiting = [];
  state.more = trimmed = false;
  unseen = 0;
  state.pause = null;
  showCounts();
  showEnds();
}

/** Fetch a page of history before a position; continue where the server stopped searching without a result. */
export async function pageBefore(view, before) {
  const query = new URLSearchParams(view.filters);
  for (let position = null; ; ) {
    if (before) query.set("before", before);
    const page = await call("GET", `${view.path}?${query}`, { signal: view.signal });
    position ??= page.position;
    if (page.events.length || !page.scanned_to) return { ...page, position };
    before = page.scanned_to;
  }
}

export async function loadOlder() {
  const from = state.view;
  const last = feed.querySelector(".row:nth-last-child(1 of .row)");
  $("older").disabled = true;
  feed.setAttribute("aria-busy", "true");
  try {
    const page = await pageBefore(from, last?.dataset.position);
    if (from.signal.aborted) return;
    append(page);
    say(`${events(page.events.length)} loaded`);
  } catch (error) {
    if (from.signal.aborted) return;
    if (error.status === 401) sessionEnded();
    else if (error.code === "position_expired") [state.more, trimmed] = [false, false];
    else notice(`Older events could not be loaded: ${error.message}.`);
  } finally {
    $("older").disabled = false;
    feed.removeAttribute("aria-busy");
  }
  showEnds();
}

export function append(page) {
  const epoch = page.position.split(".")[0];
  const first = feed.childElementCount;
  feed.append(...page.events.map((event) => makeRow(summary(event, epoch))));
  state.more = "cursor" in page;
  trimmed = false;
  showEnds();
  // The button disappears, or is below the new rows: the focus moves to the first new row.
  if ($("older").disabled) feed.children[first]?.focus({ preventScroll: true });
  if (!feed.querySelector("[tabindex='0']")) setTabStop(feed.firstElementChild);
}

/** Show the text below the last row, or the message without rows. */
function showEnds() {
  const rows = feed.childElementCount;
  $("foot").hidden = !rows;
  $("older").hidden = !state.more;
  $("foot").firstElementChild.textContent = trimmed
    ? `The newest ${number.format(KEEP)} are kept here; older ones are in the log.`
    : state.more
      ? ""
      : state.view?.filters.size
        ? "No older events match."
        : "No older events.";
  const card = $("empty");
  card.hidden = rows > 0 || !state.empty;
  $("columns").hidden = !card.hidden;
  if (card.hidden) return;
  const name = state.view?.workspace ?? "my";
  const filtered = state.empty === "quiet" && state.view.filters.size > 0;
  const command = !filtered && WORKSPACE_ID.test(name);
  const [title, text] = filtered
    ? ["No event matches", "Matching events will appear here as soon as they are stored."]
    : state.empty === "quiet"
      ? ["Nothing has happened here yet", "Append the first event, and it will appear here at once:"]
      : state.empty === "missing"
        ? ["There is no such workspace, or you do not have access to it", "With a key that has access, the first event creates it:"]
        : ["There is no workspace yet", "The first event creates one:"];
  card.querySelector("h2").textContent = title;
  card.querySelector("p").textContent = command || filtered ? text : "Choose another one above.";
  card.querySelector(".code").hidden = !command;
  $("unfilter").hidden = !filtered;
  card.querySelector("pre").textContent = `curl ${new URL("v1/workspaces", document.baseURI)}/${name}/events \\
  -H "Authorization: Bearer $STREAMER_KEY" \\
  -H 'Content-Type: application/json' \\
  -d '{"action": "issue.created",
       "actor": {"type": "user", "id": "ann", "name": "Ann"},
       "entity": {"type": "issue", "id": "1", "name": "Fix the login"}}'`;
}

export function showEmpty(reason) {
  state.empty = reason;
  showEnds();
}

export function setTabStop(row) {
  feed.querySelector("[tabindex='0']")?.setAttribute("tabindex", "-1");
  row?.setAttribute("tabindex", "0");
}

// ---- pausing

/** Pause while somebody reads: rows that move under the pointer are hard to use. */
export function hold() {
  state.pause ??= "reading";
  showState();
}

export function release() {
  const reading = scroller.scrollTop > 8 || state.shownEvent || feed.contains(document.activeElement);
  if (state.pause === "reading" && !reading) resume();
}

export function resume() {
  state.pause = null;
  scroller.scrollTop = 0;
  flush();
  showState();
  showCounts();
}

export function togglePause() {
  if (state.pause) return resume();
  state.pause = "user";
  showState();
}
