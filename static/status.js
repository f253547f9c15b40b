// Messages of the page: the connection state, the notice, and announcements for screen readers, which are brief: new
// events are counted, not read out.

import { $, events } from "./page.js";
import { state } from "./state.js";

const SAY_EVERY = 10_000; // ms between two announcements for screen readers
const STATES = {
  connecting: "Connecting",
  live: "Live",
  reconnecting: "Reconnecting",
  paused: "Paused",
  offline: "Offline",
};
export const REASONS = {
  workspace_deleted: "This workspace was deleted. Only the events on this page are left.",
  credential_expired: "Your session has expired. Open a new sign-in link to continue.",
  signed_out: "You signed out. Open a new sign-in link to continue.",
  access_revoked: "You are no longer a member of this workspace.",
  credential_revoked: "Your session was revoked. Open a new sign-in link to continue.",
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

/** Announce a text that covers all new events. */
export function sayCount(text) {
  clearTimeout(sayTimer);
  sayTimer = unsaid = 0;
  saidAt = performance.now();
  say(text);
}
