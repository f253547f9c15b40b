// The one state that the parts of the page share. Each of them keeps to itself what no other asks for.

export const state = {
  inside: false, // signed in
  workspaces: [], // those to choose from, {id, name}
  view: null, // the workspace and filters that are looked at, with their stream
  shownEvent: null, // the id of the event whose detail is open
  pause: null, // "user": by Space or button; "reading": scrolled, in a row or in the detail; ends by itself
  more: false, // there are older events than those shown
  empty: null, // why there may be no rows: "quiet", "missing", "none"; null while nobody knows yet
};
