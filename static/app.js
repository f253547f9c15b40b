// The page: history and live events of one workspace. This is the entry point: it wires up the elements and checks for a
// session.
//
//   address ──► route ──► View: GET …/events ──► EventSource …/stream?after=<position>
//                │                  └──────────────┬──► rows (waiting while paused) ──► feed
//                └──► event: GET …/events/{id} ──► detail
//
// Allowed imports, always to the right:
//   app › keys, session › route › detail, stream › feed, workspaces › rows, status › page, api, state

import { cover } from "./detail.js";
import { hold, loadOlder, release, resume, setTabStop, showCounts, togglePause } from "./feed.js";
import { onKey } from "./keys.js";
import { $, feed, narrow, scroller } from "./page.js";
import { closeEvent, go, openEvent, route } from "./route.js";
import { door, enter, signOut } from "./session.js";
import { state } from "./state.js";
import { REASONS, notice, say } from "./status.js";
import { loadWorkspaces } from "./workspaces.js";

addEventListener("keydown", onKey);

feed.addEventListener("focusin", ({ target: focused }) => {
  setTabStop(focused.closest("article"));
  hold();
});
feed.addEventListener("focusout", () => setTimeout(release));
scroller.addEventListener("scroll", () => (scroller.scrollTop > 8 ? hold() : release()));

feed.addEventListener("click", (event) => {
  const row = event.target.closest(".row");
  if (!row || event.ctrlKey || event.metaKey || event.shiftKey || !getSelection().isCollapsed) return;
  event.preventDefault();
  openEvent(row.dataset.id);
});

document.addEventListener("click", async ({ target: button }) => {
  if (!button.matches(".copy")) return;
  const text = button.previousElementSibling;
  let done = "Copied";
  try {
    await navigator.clipboard.writeText(text.textContent);
  } catch {
    // Browsers allow clipboard access on secure origins only: otherwise the reader copies the selected text.
    getSelection().selectAllChildren(text);
    done = "Press Ctrl+C";
  }
  button.textContent = done;
  say(done);
  setTimeout(() => (button.textContent = "Copy"), 2000);
});

let typing = 0;
$("q").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => {
    const q = $("q").value;
    go({ q, event: null }, { replace: q && state.view?.filters.has("q") });
  }, 250);
});
$("filters").addEventListener("submit", (event) => event.preventDefault());
for (const name of ["category", "actor_type"])
  $(name).addEventListener("change", () => go({ [name]: $(name).value, event: null }));
$("workspace").addEventListener("change", () => go({ workspace: $("workspace").value, event: null }));
$("unfilter").addEventListener("click", () => go({ q: null, category: null, actor_type: null }));
$("workspace").addEventListener("focus", loadWorkspaces);
$("dismiss").addEventListener("click", () => notice(""));
$("pause").addEventListener("click", togglePause);
$("fresh").addEventListener("click", resume);
$("older").addEventListener("click", loadOlder);
$("close").addEventListener("click", closeEvent);
$("sign-out").addEventListener("click", signOut);
narrow.addEventListener("change", cover);
addEventListener("popstate", () => state.inside && !/^#sign-in=/.test(location.hash) && route());
addEventListener("hashchange", () => /^#sign-in=/.test(location.hash) && enter());
addEventListener("online", () => state.view?.refresh());
document.addEventListener("visibilitychange", () => {
  showCounts();
  if (!document.hidden) state.view?.refresh();
});
addEventListener("sessionended", () => door(REASONS.credential_expired));

enter();
