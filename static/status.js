// What the page says: the pill that tells of the connection, the notice, and what screen readers are told, which is
// little: new events are counted aloud, not read out.

import { $, events } from "./page.js";
import { state } from "./state.js";

const SAY_EVERY = 10_000; // ms between two counts for screen readers
const STATES = {
  connecting: "Connecting",
  live: "Live",
  reconnecting: "Reconnecting",
  paused: "Paused",
  offline: "Offline",
};
export const REASONS = {
  workspace_deleted: "This workspace was deleted. What is shown here is all that is left of it.",
  credential_expired: "Your session has ended. Open a new sign-in link to go on.",
  signed_out: "You signed out. Open a new sign-in link to go on.",
  access_revoked: "You are no member of this workspace any more.",
  credential_revoked: "Your session was ended. Open a new sign-in link to go on.",
};

let connection = "connecting";

export function setState(next) {
  connection = next;
  showState();
}

export function showState() {
  const shown = connection === "live" && state.pause ? "paused" : connection;
  $("state").dataset.state = shown;
  $("state").querySelector("b").textContent = STATES[shown];
  $("pause").textContent = state.pause ? "Resume" : "Pause";
}

export function notice(text) {
  $("notice").firstElementChild.textContent = text;
  $("notice").hidden = !text;
}

export const say = (text) => ($("status").textContent = text);

let unsaid = 0;
let saidAt = -SAY_EVERY;
let sayTimer = 0;

export function sayNew() {
  unsaid += 1;
  const speak = () => sayCount(`${events(unsaid, "new ")}${state.pause ? ", waiting while paused" : ""}`);
  sayTimer ||= setTimeout(speak, saidAt + SAY_EVERY - performance.now());
}

/** Say a text that tells of all new events. */
export function sayCount(text) {
  clearTimeout(sayTimer);
  sayTimer = unsaid = 0;
  saidAt = performance.now();
  say(text);
}
