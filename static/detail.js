// One event with all of its fields, beside the list or, on a narrow screen, over it.

import { call, sessionEnded } from "./api.js";
import { hold, release } from "./feed.js";
import { $, kindOf, feed, localDate, localTime, narrow, number } from "./page.js";
import { state } from "./state.js";

export async function showEvent(id) {
  const returnTo = state.shownEvent;
  state.shownEvent = id;
  markCurrent();
  if (!id) {
    const wasInside = $("detail").contains(document.activeElement);
    $("detail").hidden = true;
    cover();
    if (returnTo && wasInside) rowOf(returnTo)?.focus({ preventScroll: true });
    return release();
  }
  hold();
  let event, problem;
  try {
    event = await call("GET", `${state.view.path}/${encodeURIComponent(id)}`, { signal: state.view.signal });
  } catch (error) {
    if (error.status === 401) return sessionEnded();
    const missing = error.status === 404;
    problem = missing ? "This event is not in the log, or you do not have access to it." : `Not shown: ${error.message}.`;
  }
  if (state.shownEvent !== id) return;
  $("detail-title").textContent = problem ?? (event.description || event.action);
  $("detail-body").hidden = Boolean(problem);
  if (event) fillDetail(event);
  $("detail").hidden = false;
  cover();
  $("detail-body").scrollTop = 0;
  $("detail-title").focus({ preventScroll: true });
}

function fillDetail(event) {
  const { actor, entity } = event;
  const at = new Date(event.timestamp);
  const names = (thing) => [thing.identifier, thing.name, thing.id].filter(Boolean).join(" · ");
  const facts = {
    Time: `${localDate(at)} ${localTime(at)} (${Intl.DateTimeFormat().resolvedOptions().timeZone})`,
    Stored: event.timestamp,
    Happened: event.occurred_at,
    Action: event.action,
    Category: event.category,
    Actor: `${kindOf(actor.type) ?? actor.type} ${names(actor)}`,
    Role: actor.role,
    "On behalf of": actor.on_behalf_of,
    Address: actor.ip,
    Entity: entity && [entity.type, names(entity)].filter(Boolean).join(" "),
    Agent: event.agent_id,
    Run: event.run_id,
    Task: event.task_id,
    Trace: event.traceparent,
    Seq: number.format(event.seq),
    Id: event.id,
  };
  const list = $("detail-body").querySelector("dl");
  list.replaceChildren();
  for (const [name, value] of Object.entries(facts)) {
    if (!value) continue;
    const [term, definition] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = name;
    definition.textContent = value;
    list.append(term, definition);
  }
  const changes = Object.entries(event.changes ?? {});
  const table = $("detail-body").querySelector("table");
  const plain = (value) => (value === undefined ? "" : typeof value === "string" ? value : JSON.stringify(value));
  table.hidden = !changes.length;
  table.tBodies[0].replaceChildren(
    ...changes.map(([name, change]) => {
      const line = document.createElement("tr");
      for (const text of [name, plain(change?.from), plain(change?.to)]) line.insertCell().textContent = text;
      return line;
    }),
  );
  $("detail-body").querySelector("pre").textContent = JSON.stringify(event, null, 2);
}

export const rowOf = (id) => feed.querySelector(`.row[data-id="${CSS.escape(id)}"]`);

function markCurrent() {
  feed.querySelector("[aria-current]")?.removeAttribute("aria-current");
  if (state.shownEvent) rowOf(state.shownEvent)?.setAttribute("aria-current", "true");
}

/** On a narrow screen the detail covers the rest, which is then inert for everybody. */
export function cover() {
  for (const part of [$("bar"), $("list")]) part.inert = narrow.matches && !$("detail").hidden;
}
