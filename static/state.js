// The state shared by the parts of the page. Everything else is private to its part.

export const state = {
  inside: false, // signed in
  workspaces: [], // the workspaces to choose from, {id, name}
  view: null, // the current workspace and filters, with their stream
  shownEvent: null, // the id of the event whose detail is open
  pause: null, // "user": by Space or button; "reading": scrolled, in a row or in the detail; ends automatically
  more: false, // there are older events than the displayed ones
  empty: null, // why there may be no rows: "quiet", "missing", "none"; null while unknown
};
