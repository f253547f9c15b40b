// The address holds the view: workspace, filters and the open event are its parameters, so that links, Back and reload
// work. To change the view, go to its address.

import { sleep } from "./api.js";
import { showEvent } from "./detail.js";
import { clearRows, showEmpty } from "./feed.js";
import { $, link, select } from "./page.js";
import { state } from "./state.js";
import { notice } from "./status.js";
import { View } from "./stream.js";
import { loadWorkspaces } from "./workspaces.js";

const FILTERS = ["q", "category", "actor_type"];

export function go(changes, { replace = false, state: entry = null } = {}) {
  history[replace ? "replaceState" : "pushState"](entry, "", link(changes));
  route();
}

export function route() {
  const query = new URLSearchParams(location.search);
  const workspace = query.get("workspace");
  if (!workspace) return chooseWorkspace();
  const filters = new URLSearchParams(FILTERS.filter((name) => query.get(name)).map((name) => [name, query.get(name)]));
  if (state.view?.workspace !== workspace || String(state.view.filters) !== String(filters)) {
    if (state.view) notice("");
    state.view?.close();
    state.view = new View(workspace, filters);
    state.empty = null;
    clearRows();
    state.view.start();
  }
  showControls(workspace, filters);
  const event = query.get("event");
  if (event !== state.shownEvent) showEvent(event);
}

function showControls(workspace, filters) {
  select($("workspace"), workspace);
  for (const name of FILTERS) {
    const value = filters.get(name) ?? "";
    if (name !== "q") select($(name), value);
    else if (document.activeElement !== $("q") || !value) $("q").value = value;
  }
}

/** The address names no workspace: use the first one, or wait for one. */
async function chooseWorkspace() {
  state.view?.close();
  state.view = null;
  clearRows();
  while (state.inside && !new URLSearchParams(location.search).get("workspace")) {
    await loadWorkspaces();
    const first = state.workspaces.find(({ id }) => id !== "system") ?? state.workspaces[0];
    if (first && state.inside) return go({ workspace: first.id }, { replace: true });
    showEmpty("none");
    await sleep(2000);
  }
}

export const openEvent = (id) =>
  state.shownEvent
    ? go({ event: id }, { replace: true, state: history.state })
    : go({ event: id }, { state: { opened: true } });
export const closeEvent = () => (history.state?.opened ? history.back() : go({ event: null }, { replace: true }));
