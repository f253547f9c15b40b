// How an event becomes a row: the stored part of it, and the row or gap marker for that.

import { $, kindOf, link, localDate, localTime, lookUp, number } from "./page.js";
import { state } from "./state.js";

const CLIP = 300; // characters of a text in a row; the detail shows all of it

let rowsMade = 0;

const clip = (text) => (text.length > CLIP ? `${text.slice(0, CLIP)}…` : text);
const called = (thing) => [thing.type, thing.identifier ?? thing.name ?? thing.id].filter(Boolean).join(" ");

/** Keep only the fields that a row shows: 2,000 complete events could take half a gigabyte. */
export const summary = (event, epoch) => ({
  id: event.id,
  seq: event.seq,
  position: `${epoch}.${event.seq}`,
  timestamp: event.timestamp,
  audit: event.category === "audit",
  kind: clip(event.actor.type),
  actor: clip(event.actor.name || event.actor.id),
  sentence: clip(event.description || event.action),
  entity: event.entity ? clip(called(event.entity)) : "",
});

export function makeRow(item) {
  const row = $("row").content.firstElementChild.cloneNode(true);
  const [time, actor, sentence, entity, seq] = row.children;
  const at = new Date(item.timestamp);
  row.dataset.id = item.id;
  row.dataset.position = item.position;
  time.dateTime = item.timestamp;
  time.children[0].textContent = localDate(at);
  time.children[1].textContent = localTime(at);
  time.children[2].textContent = `.${String(at.getMilliseconds()).padStart(3, "0")}`;
  actor.dataset.kind = kindOf(item.kind) ?? "other";
  actor.children[1].textContent = `${kindOf(item.kind) ?? item.kind} `;
  actor.children[2].textContent = item.actor;
  actor.title = `${item.actor} (${kindOf(item.kind) ?? item.kind})`;
  sentence.children[0].hidden = !item.audit;
  sentence.children[1].textContent = item.sentence;
  sentence.id = `row-${++rowsMade}`;
  row.setAttribute("aria-labelledby", sentence.id);
  entity.textContent = item.entity;
  seq.textContent = number.format(item.seq);
  seq.href = link({ event: item.id });
  if (item.id === state.shownEvent) row.setAttribute("aria-current", "true");
  return row;
}

function makeGap({ from, to, reason }) {
  const row = $("gap").content.firstElementChild.cloneNode(true);
  const range =
    from === null
      ? "Events"
      : to === null
        ? `Events from ${number.format(from)} on`
        : from === to
          ? `Event ${number.format(from)}`
          : `Events ${number.format(from)} to ${number.format(to)}`;
  const why = {
    retention: "removed from the log before this page could read them (retention)",
    reset: "the log was re-created or restored and no longer contains them (reset)",
  };
  row.firstElementChild.textContent = `${range} missing: ${lookUp(why, reason) ?? reason}`;
  return row;
}

export const render = (item) => (item.gap ? makeGap(item.gap) : makeRow(item));
