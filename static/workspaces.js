// The workspaces to choose from.

import { call, sessionEnded } from "./api.js";
import { $, select } from "./page.js";
import { state } from "./state.js";

export async function loadWorkspaces() {
  let found = [];
  try {
    for (let page = null; !page || (page.length && found.length < 1000); found.push(...page)) {
      const after = found.length ? `?after=${encodeURIComponent(found.at(-1).id)}` : "";
      page = (await call("GET", `v1/workspaces${after}`)).workspaces;
    }
  } catch (error) {
    if (error.status === 401) sessionEnded();
    return; // known workspaces stay; the view itself reports problems
  }
  found = found.map(({ id, name }) => ({ id, name }));
  if (JSON.stringify(found) === JSON.stringify(state.workspaces)) return;
  state.workspaces = found;
  $("workspace").replaceChildren(
    ...found.map(({ id, name }) => new Option(name && name !== id ? `${name} (${id})` : id, id)),
  );
  if (state.view) select($("workspace"), state.view.workspace);
}
