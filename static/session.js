// The session: a sign-in link's code opens it, the sign-in page is shown without one, and signing out ends it.

import { backoff, call, sleep } from "./api.js";
import { cover } from "./detail.js";
import { clearRows } from "./feed.js";
import { $ } from "./page.js";
import { route } from "./route.js";
import { state } from "./state.js";
import { notice } from "./status.js";

function takeCode() {
  const code = /^#sign-in=(.+)$/.exec(location.hash)?.[1];
  if (code) history.replaceState(null, "", location.pathname + location.search);
  return code;
}

export async function enter() {
  const code = takeCode();
  let refused = "";
  for (let failures = 0; ; failures += 1) {
    try {
      if (code && !refused) await call("POST", "v1/session", { body: { code } });
      else await call("GET", "v1/session");
      break;
    } catch (error) {
      if (error.status === 0 || error.status >= 500) {
        notice("The server does not answer. Retrying …");
        await sleep(backoff(failures));
      } else if (code && !refused) {
        refused = "This sign-in link was used before, or is older than ten minutes.";
      } else {
        notice("");
        return door(refused && `${refused} Each works only once.`);
      }
    }
  }
  state.inside = true;
  $("door").hidden = true;
  for (const id of ["view", "filters", "controls"]) $(id).hidden = false;
  state.view?.close();
  state.view = null;
  route();
  notice(refused && `${refused} You are still signed in.`);
}

/** Show how to sign in, and hide everything else. */
export function door(reason = "") {
  state.inside = false;
  state.view?.close();
  state.view = null;
  state.shownEvent = null;
  for (const id of ["view", "filters", "controls", "detail"]) $(id).hidden = true;
  cover();
  state.empty = null;
  clearRows();
  notice("");
  $("detail-title").textContent = $("detail-body").querySelector("pre").textContent = "";
  $("detail-body").querySelector("dl").replaceChildren();
  state.workspaces = [];
  $("workspace").replaceChildren();
  $("door").hidden = false;
  $("door-reason").textContent = reason;
  $("door-reason").hidden = !reason;
}

export async function signOut() {
  try {
    await call("DELETE", "v1/session");
  } catch (error) {
    if (error.status !== 401) return notice(`You are still signed in: ${error.message}.`);
  }
  door("You are signed out.");
}
