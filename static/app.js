// The page: history, then live, of one workspace.
//
//   address ──► route ──► View: GET …/events ──► EventSource …/stream?after=<position>
//                │                  └──────────────┬──► rows (waiting while paused) ──► feed
//                └──► event: GET …/events/{id} ──► detail
//
// Data reaches the document as text only (textContent, setAttribute), never as markup. No credential is kept here: the
// session is a cookie that scripts cannot read.

const KEEP = 2000; // rows in the document, and rows that wait for it
const CLIP = 300; // characters of a text in a row; the detail has all of it
const FLUSH_EVERY = 200; // ms between two changes of the list
const SAY_EVERY = 10_000; // ms between two counts for screen readers
const STALE = 30_000; // ms without a word after which a stream is opened anew when the page is looked at again
const ANSWER_WITHIN = 15_000; // ms
const FILTERS = ["q", "category", "actor_type"];
const WORKSPACE_ID = /^(?!\.{1,2}$)[A-Za-z0-9._:~@-]{1,128}$/;
const KINDS = { user: "person", agent: "agent", system: "system" };
const STATES = {
  connecting: "Connecting",
  live: "Live",
  reconnecting: "Reconnecting",
  paused: "Paused",
  offline: "Offline",
};
const REASONS = {
  workspace_deleted: "This workspace was deleted. What is shown here is all that is left of it.",
  credential_expired: "Your session has ended. Open a new sign-in link to go on.",
  credential_revoked: "Your session was ended. Open a new sign-in link to go on.",
};

const $ = (id) => document.getElementById(id);
const feed = $("feed");
const scroller = $("scroller");
const narrow = matchMedia("(max-width: 900px)");
const number = new Intl.NumberFormat();

// ---- the API

class ApiError extends Error {
  constructor(status, { code, message, details }) {
    super(message);
    this.status = status;
    this.code = code;
    this.fields = details?.fields ?? {};
  }
}

// JSON has numbers that a double has not: keep them as they are written, where the browser can.
const exact = (_key, value, context) =>
  typeof value === "number" && context?.source !== undefined && context.source !== String(value) && JSON.rawJSON
    ? JSON.rawJSON(context.source)
    : value;

async function call(method, path, { body, signal } = {}) {
  const limit = AbortSignal.timeout(ANSWER_WITHIN);
  let response, text;
  try {
    response = await fetch(path, {
      method,
      headers: body ? { "Content-Type": "application/json" } : {},
      body: body && JSON.stringify(body),
      signal: signal ? AbortSignal.any([signal, limit]) : limit,
    });
    text = await response.text();
  } catch {
    throw new ApiError(0, { code: "unreachable", message: "the server does not answer" });
  }
  if (response.ok) return text ? JSON.parse(text, exact) : null;
  let error = { code: "unexpected", message: `the server answered ${response.status}` };
  try {
    error = JSON.parse(text).error ?? error;
  } catch {
    // Not ours: a proxy's page, say.
  }
  throw new ApiError(response.status, error);
}

const sleep = (ms, signal) =>
  new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => (clearTimeout(timer), resolve()));
  });

const backoff = (failures) => Math.min(30_000, 1000 * 2 ** failures) * (0.5 + Math.random() / 2);

// ---- what is said: the pill, the notice, and screen readers

let connection = "connecting";

function setState(state) {
  connection = state;
  showState();
}

function showState() {
  const shown = connection === "live" && pause ? "paused" : connection;
  $("state").dataset.state = shown;
  $("state").querySelector("b").textContent = STATES[shown];
  $("pause").textContent = pause ? "Resume" : "Pause";
}

function notice(text) {
  $("notice").firstElementChild.textContent = text;
  $("notice").hidden = !text;
}

const say = (text) => ($("status").textContent = text);
const events = (count, word = "") => `${number.format(count)} ${word}${count === 1 ? "event" : "events"}`;

let unsaid = 0;
let saidAt = -SAY_EVERY;
let sayTimer = 0;

function sayNew() {
  unsaid += 1;
  const speak = () => sayCount(`${events(unsaid, "new ")}${pause ? ", waiting while paused" : ""}`);
  sayTimer ||= setTimeout(speak, saidAt + SAY_EVERY - performance.now());
}

/** Say a text that tells of all new events. */
function sayCount(text) {
  clearTimeout(sayTimer);
  sayTimer = unsaid = 0;
  saidAt = performance.now();
  say(text);
}

// ---- rows

let pause = null; // "user": by Space or button; "reading": scrolled, in a row or in the detail; ends by itself
let waiting = []; // oldest first
let unseen = 0; // events among what waits, and among what waited too long
let more = false; // there are older events than those shown
let trimmed = false;
let empty = null; // why there may be no rows: "quiet", "missing", "none"; null while nobody knows yet
let flushing = 0;
let flushedAt = 0;
let countTimer = 0;
let rowsMade = 0;

const clip = (text) => (text.length > CLIP ? `${text.slice(0, CLIP)}…` : text);
const two = (value) => String(value).padStart(2, "0");
const localDate = (time) => `${time.getFullYear()}-${two(time.getMonth() + 1)}-${two(time.getDate())}`;
const localTime = (time) => `${two(time.getHours())}:${two(time.getMinutes())}:${two(time.getSeconds())}`;
const called = (thing) => [thing.type, thing.identifier ?? thing.name ?? thing.id].filter(Boolean).join(" ");

/** Keep of an event what its row shows: 2,000 whole ones could be half a gigabyte. */
const summary = (event, epoch) => ({
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

function makeRow(item) {
  const row = $("row").content.firstElementChild.cloneNode(true);
  const [time, actor, sentence, entity, seq] = row.children;
  const at = new Date(item.timestamp);
  row.dataset.id = item.id;
  row.dataset.position = item.position;
  time.dateTime = item.timestamp;
  time.children[0].textContent = localDate(at);
  time.children[1].textContent = localTime(at);
  time.children[2].textContent = `.${String(at.getMilliseconds()).padStart(3, "0")}`;
  actor.dataset.kind = KINDS[item.kind] ?? "other";
  actor.children[1].textContent = `${KINDS[item.kind] ?? item.kind} `;
  actor.children[2].textContent = item.actor;
  actor.title = `${item.actor} (${KINDS[item.kind] ?? item.kind})`;
  sentence.children[0].hidden = !item.audit;
  sentence.children[1].textContent = item.sentence;
  sentence.id = `row-${++rowsMade}`;
  row.setAttribute("aria-labelledby", sentence.id);
  entity.textContent = item.entity;
  seq.textContent = number.format(item.seq);
  seq.href = link({ event: item.id });
  if (item.id === shownEvent) row.setAttribute("aria-current", "true");
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
    reset: "the log was made anew or restored, what this page had yet to read is not in it (reset)",
  };
  row.firstElementChild.textContent = `${range} missing: ${why[reason] ?? reason}`;
  return row;
}

const render = (item) => (item.gap ? makeGap(item.gap) : makeRow(item));

function add(item) {
  waiting.push(item);
  if (waiting.length > 2 * KEEP) waiting.splice(0, waiting.length - KEEP - 1);
  if (!item.gap) {
    unseen += 1;
    sayNew();
  }
  if (!pause) flushing ||= setTimeout(requestAnimationFrame, flushedAt + FLUSH_EVERY - performance.now(), flush);
  countTimer ||= setTimeout(showCounts, 200);
}

function showCounts() {
  countTimer = 0;
  const button = $("fresh");
  button.textContent = `${number.format(unseen)} new`;
  button.hidden = !(pause && unseen);
  const name = view ? `${view.workspace} · streamer` : "streamer";
  document.title = unseen && (pause || document.hidden) ? `(${number.format(unseen)}) ${name}` : name;
}

/** Show what waits: at once after a quiet moment, else five times a second, however fast it comes. */
function flush() {
  flushing = 0;
  flushedAt = performance.now();
  if (pause || !waiting.length) return;
  const items = waiting.slice(-KEEP).reverse();
  if (waiting.length > KEEP) more = trimmed = true;
  const rows = document.createDocumentFragment();
  rows.append(...items.map(render));
  if (items.length <= 20) for (const row of rows.children) row.classList.add("new");
  feed.prepend(rows);
  while (feed.childElementCount > KEEP) {
    feed.lastElementChild.remove();
    more = trimmed = true;
  }
  waiting = [];
  unseen = 0;
  showCounts();
  showEnds();
  if (!feed.contains(document.activeElement)) setTabStop(feed.firstElementChild);
}

function clearRows() {
  feed.replaceChildren();
  waiting = [];
  more = trimmed = false;
  unseen = 0;
  pause = null;
  showCounts();
  showEnds();
}

async function loadOlder() {
  const from = view;
  const last = feed.querySelector(".row:nth-last-child(1 of .row)");
  const query = new URLSearchParams(from.filters);
  if (last) query.set("before", last.dataset.position);
  $("older").disabled = true;
  feed.setAttribute("aria-busy", "true");
  try {
    const page = await call("GET", `${from.path}?${query}`, { signal: from.signal });
    if (from.signal.aborted) return;
    append(page);
    say(`${events(page.events.length)} loaded`);
  } catch (error) {
    if (from.signal.aborted) return;
    if (error.status === 401) door(REASONS.credential_expired);
    else if (error.code === "position_expired") [more, trimmed] = [false, false];
    else notice(`Older events could not be loaded: ${error.message}.`);
  } finally {
    $("older").disabled = false;
    feed.removeAttribute("aria-busy");
  }
  showEnds();
}

function append(page) {
  const epoch = page.position.split(".")[0];
  const first = feed.childElementCount;
  feed.append(...page.events.map((event) => makeRow(summary(event, epoch))));
  more = "cursor" in page;
  trimmed = false;
  showEnds();
  // The button goes, or is below what it brought: whoever pressed it goes on reading at the first new row.
  if ($("older").disabled) feed.children[first]?.focus({ preventScroll: true });
  if (!feed.querySelector("[tabindex='0']")) setTabStop(feed.firstElementChild);
}

/** Show what stands below the last row, or in the place of rows. */
function showEnds() {
  const rows = feed.childElementCount;
  $("foot").hidden = !rows;
  $("older").hidden = !more;
  $("foot").firstElementChild.textContent = trimmed
    ? `The newest ${number.format(KEEP)} are kept here; older ones are in the log.`
    : more
      ? ""
      : view?.filters.size
        ? "No older events match."
        : "No older events.";
  const card = $("empty");
  card.hidden = rows > 0 || !empty;
  $("columns").hidden = !card.hidden;
  if (card.hidden) return;
  const name = view?.workspace ?? "my";
  const filtered = empty === "quiet" && view.filters.size > 0;
  const command = !filtered && WORKSPACE_ID.test(name);
  const [title, text] = filtered
    ? ["No event matches", "New ones that do will appear here as they are stored."]
    : empty === "quiet"
      ? ["Nothing has happened here yet", "Append the first event, and it will appear here at once:"]
      : empty === "missing"
        ? ["There is no such workspace, or you may not see it", "With a key that may, the first event makes it:"]
        : ["There is no workspace yet", "The first event makes one:"];
  card.querySelector("h2").textContent = title;
  card.querySelector("p").textContent = command || filtered ? text : "Choose another one above.";
  card.querySelector(".code").hidden = !command;
  $("unfilter").hidden = !filtered;
  card.querySelector("pre").textContent = `curl ${location.origin}/v1/workspaces/${name}/events \\
  -H "Authorization: Bearer $STREAMER_KEY" \\
  -H 'Content-Type: application/json' \\
  -d '{"action": "issue.created",
       "actor": {"type": "user", "id": "ann", "name": "Ann"},
       "entity": {"type": "issue", "id": "1", "name": "Fix the login"}}'`;
}

function showEmpty(reason) {
  empty = reason;
  showEnds();
}

// ---- pausing

/** Stand still while somebody reads: rows that move under the pointer are no use. */
function hold() {
  pause ??= "reading";
  showState();
}

function release() {
  const reading = scroller.scrollTop > 8 || shownEvent || feed.contains(document.activeElement);
  if (pause === "reading" && !reading) resume();
}

function resume() {
  pause = null;
  scroller.scrollTop = 0;
  flush();
  showState();
  showCounts();
}

function togglePause() {
  if (pause) return resume();
  pause = "user";
  showState();
}

// ---- a workspace, by some filter: history, then the stream

class View {
  constructor(workspace, filters) {
    this.workspace = workspace;
    this.filters = filters;
    this.base = `/v1/workspaces/${encodeURIComponent(workspace)}`;
    this.path = `${this.base}/events`;
    this.aborter = new AbortController();
    this.signal = this.aborter.signal;
    this.failures = 0;
    this.heardAt = performance.now();
    this.caughtUp = null; // events since the connection was lost
    this.recovering = false;
  }

  close() {
    this.aborter.abort();
    this.source?.close();
  }

  async start() {
    setState("connecting");
    if (!workspaces.some(({ id }) => id === this.workspace)) loadWorkspaces();
    const page = await this.insist(() => call("GET", `${this.path}?${this.filters}`, { signal: this.signal }));
    if (!page) return;
    empty = "quiet";
    append(page);
    this.position = page.position;
    this.listen();
  }

  listen() {
    this.source?.close();
    const query = new URLSearchParams(this.filters);
    query.set("after", this.position);
    const source = (this.source = new EventSource(`${this.path}/stream?${query}`));
    const on = (type, handle) =>
      source.addEventListener(type, (message) => {
        this.position = message.lastEventId || this.position;
        this.heardAt = performance.now();
        handle(JSON.parse(message.data));
      });
    on("activity", (event) => {
      if (this.caughtUp !== null) this.caughtUp += 1;
      add(summary(event, this.position.split(".")[0]));
    });
    on("gap", (gap) => add({ gap }));
    on("synced", () => this.synced());
    on("closed", ({ reason, reconnect }) => {
      if (!reconnect) this.stop(REASONS[reason] ?? `The server ended the stream: ${reason}.`);
    });
    // The browser comes back by itself and sends its position, unless it was answered with an error.
    source.addEventListener("error", () => (source.readyState === EventSource.CLOSED ? this.recover() : this.lost()));
  }

  synced() {
    this.failures = 0;
    if (this.caughtUp !== null) sayCount(`Connection restored, ${events(this.caughtUp)} caught up`);
    this.caughtUp = null;
    setState("live");
  }

  lost() {
    if (this.signal.aborted) return;
    if (this.caughtUp === null) say("Connection lost, trying again");
    this.caughtUp ??= 0;
    setState(navigator.onLine ? "reconnecting" : "offline");
  }

  async recover() {
    this.lost();
    this.recovering = true;
    await sleep(backoff(this.failures++), this.signal);
    const found = await this.insist(() => call("GET", this.base, { signal: this.signal }));
    this.recovering = false;
    if (found) this.listen();
  }

  /** After sleep or another network a dead connection may look alive: the browser hides the heartbeats from us. */
  refresh() {
    const open = this.source && !this.signal.aborted && !this.recovering;
    if (open && performance.now() - this.heardAt > STALE) this.listen();
  }

  stop(reason) {
    this.close();
    setState("offline");
    notice(reason);
  }

  /** Repeat until it works. Returns nothing if it never will, or nobody waits for it any more. */
  async insist(step) {
    while (!this.signal.aborted) {
      try {
        const result = await step();
        return this.signal.aborted ? undefined : result;
      } catch (error) {
        if (this.signal.aborted) return;
        if (error.status === 401) {
          door(REASONS.credential_expired);
        } else if (error.status === 404) {
          showEmpty("missing");
          await sleep(3000, this.signal);
        } else if (error.status === 400 || error.status === 403) {
          const fields = Object.entries(error.fields).map(([name, wrong]) => `${name}: ${wrong}`);
          this.stop(`The server refused this view: ${fields.join("; ") || error.message}.`);
        } else {
          this.lost();
          await sleep(backoff(this.failures++), this.signal);
        }
      }
    }
  }
}

// ---- one event

let shownEvent = null;

async function showEvent(id) {
  const returnTo = shownEvent;
  shownEvent = id;
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
    event = await call("GET", `${view.path}/${encodeURIComponent(id)}`, { signal: view.signal });
  } catch (error) {
    if (error.status === 401) return door(REASONS.credential_expired);
    const missing = error.status === 404;
    problem = missing ? "This event is not in the log, or you may not see it." : `Not shown: ${error.message}.`;
  }
  if (shownEvent !== id) return;
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
    Actor: `${KINDS[actor.type] ?? actor.type} ${names(actor)}`,
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

const rowOf = (id) => feed.querySelector(`.row[data-id="${CSS.escape(id)}"]`);

function markCurrent() {
  feed.querySelector("[aria-current]")?.removeAttribute("aria-current");
  if (shownEvent) rowOf(shownEvent)?.setAttribute("aria-current", "true");
}

/** On a narrow screen the detail covers the rest, which then is out of reach for everybody. */
function cover() {
  for (const part of [$("bar"), $("list")]) part.inert = narrow.matches && !$("detail").hidden;
}

const openEvent = (id) =>
  shownEvent ? go({ event: id }, { replace: true, state: history.state }) : go({ event: id }, { state: { opened: true } });
const closeEvent = () => (history.state?.opened ? history.back() : go({ event: null }, { replace: true }));

// ---- the address holds the view

let view = null;

function link(changes) {
  const query = new URLSearchParams(location.search);
  for (const [name, value] of Object.entries(changes)) {
    if (value) query.set(name, value);
    else query.delete(name);
  }
  return query.size ? `?${query}` : location.pathname;
}

function go(changes, { replace = false, state = null } = {}) {
  history[replace ? "replaceState" : "pushState"](state, "", link(changes));
  route();
}

function route() {
  const query = new URLSearchParams(location.search);
  const workspace = query.get("workspace");
  if (!workspace) return chooseWorkspace();
  const filters = new URLSearchParams(FILTERS.filter((name) => query.get(name)).map((name) => [name, query.get(name)]));
  if (view?.workspace !== workspace || String(view.filters) !== String(filters)) {
    if (view) notice("");
    view?.close();
    view = new View(workspace, filters);
    empty = null;
    clearRows();
    view.start();
  }
  showControls(workspace, filters);
  const event = query.get("event");
  if (event !== shownEvent) showEvent(event);
}

function showControls(workspace, filters) {
  select($("workspace"), workspace);
  for (const name of FILTERS) {
    const value = filters.get(name) ?? "";
    if (name !== "q") select($(name), value);
    else if (document.activeElement !== $("q") || !value) $("q").value = value;
  }
}

/** Select a value, also one that is not in the list. */
function select(element, value) {
  if (![...element.options].some((option) => option.value === value)) element.add(new Option(value, value));
  element.value = value;
}

let workspaces = [];

async function loadWorkspaces() {
  let found = [];
  try {
    for (let page = null; !page || (page.length && found.length < 1000); found.push(...page)) {
      const after = encodeURIComponent(found.at(-1)?.id ?? "");
      page = (await call("GET", `/v1/workspaces?after=${after}`)).workspaces;
    }
  } catch (error) {
    if (error.status === 401) door(REASONS.credential_expired);
    return; // what is known stays; the view itself tells of trouble
  }
  found = found.map(({ id, name }) => ({ id, name }));
  if (JSON.stringify(found) === JSON.stringify(workspaces)) return;
  workspaces = found;
  $("workspace").replaceChildren(
    ...found.map(({ id, name }) => new Option(name && name !== id ? `${name} (${id})` : id, id)),
  );
  if (view) select($("workspace"), view.workspace);
}

/** The address names no workspace: take the first; wait for one if there is none. */
async function chooseWorkspace() {
  view?.close();
  view = null;
  clearRows();
  while (inside && !new URLSearchParams(location.search).get("workspace")) {
    await loadWorkspaces();
    const first = workspaces.find(({ id }) => id !== "system") ?? workspaces[0];
    if (first && inside) return go({ workspace: first.id }, { replace: true });
    showEmpty("none");
    await sleep(2000);
  }
}

// ---- the session

let inside = false;

function takeCode() {
  const code = /^#sign-in=(.+)$/.exec(location.hash)?.[1];
  if (code) history.replaceState(null, "", location.pathname + location.search);
  return code;
}

async function enter() {
  const code = takeCode();
  let refused = "";
  for (let failures = 0; ; failures += 1) {
    try {
      if (code && !refused) await call("POST", "/v1/session", { body: { code } });
      else await call("GET", "/v1/session");
      break;
    } catch (error) {
      if (error.status === 0 || error.status >= 500) {
        notice("The server does not answer. Trying again …");
        await sleep(backoff(failures));
      } else if (code && !refused) {
        refused = "This sign-in link was used before, or is older than ten minutes.";
      } else {
        notice("");
        return door(refused && `${refused} Each works only once.`);
      }
    }
  }
  inside = true;
  $("door").hidden = true;
  for (const id of ["view", "filters", "controls"]) $(id).hidden = false;
  view?.close();
  view = null;
  route();
  notice(refused && `${refused} You are still signed in.`);
}

/** Show how to sign in, and nothing else: what was on the screen goes. */
function door(reason = "") {
  inside = false;
  view?.close();
  view = null;
  shownEvent = null;
  for (const id of ["view", "filters", "controls", "detail"]) $(id).hidden = true;
  cover();
  empty = null;
  clearRows();
  notice("");
  $("detail-title").textContent = $("detail-body").querySelector("pre").textContent = "";
  $("detail-body").querySelector("dl").replaceChildren();
  workspaces = [];
  $("workspace").replaceChildren();
  $("door").hidden = false;
  $("door-reason").textContent = reason;
  $("door-reason").hidden = !reason;
}

async function signOut() {
  try {
    await call("DELETE", "/v1/session");
  } catch (error) {
    if (error.status !== 401) return notice(`You are still signed in: ${error.message}.`);
  }
  door("You are signed out.");
}

// ---- hands on it

function setTabStop(row) {
  feed.querySelector("[tabindex='0']")?.setAttribute("tabindex", "-1");
  row?.setAttribute("tabindex", "0");
}

/** Where a key leads in the feed, as the ARIA practices have it for role=feed; arrows besides. */
function step(key, row) {
  switch (key) {
    case "ArrowDown":
    case "PageDown":
    case "j":
      return row ? row.nextElementSibling : feed.firstElementChild;
    case "ArrowUp":
    case "PageUp":
    case "k":
      return row?.previousElementSibling;
    case "Home":
      return feed.firstElementChild;
    case "End":
      return feed.lastElementChild;
    default:
      return undefined;
  }
}

addEventListener("keydown", (event) => {
  const { key } = event;
  const focused = document.activeElement;
  const row = focused.closest("#feed > article");
  const inDetail = $("detail").contains(focused);
  if (!inside || event.altKey || event.metaKey || event.shiftKey || event.isComposing) return;
  if (event.ctrlKey) {
    if (!row || (key !== "Home" && key !== "End")) return;
    (key === "Home" ? $("pause") : more ? $("older") : $("sign-out")).focus();
  } else if (key === " " && !focused.matches("input, select, button, pre")) {
    togglePause();
  } else if (key === "Escape" && shownEvent && focused !== $("q")) {
    closeEvent();
  } else if (key === "Enter" && row?.dataset.id) {
    openEvent(row.dataset.id);
  } else if (key === "/" && row) {
    // Keys of one character work only in the feed and the detail: elsewhere they would get in the way of dictation
    // (WCAG 2.1.4).
    $("q").focus();
  } else if (inDetail && (key === "j" || key === "k")) {
    const next = step(key, rowOf(shownEvent));
    if (!next?.dataset.id) return;
    next.scrollIntoView({ block: "nearest" });
    openEvent(next.dataset.id);
  } else if (row || (focused === document.body && key !== "j" && key !== "k")) {
    const next = step(key, row);
    if (next === undefined) return;
    next?.focus();
  } else return;
  event.preventDefault();
});

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
    // Browsers lend the clipboard to secure origins only: leave the last step to the reader.
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
    go({ q, event: null }, { replace: q && view?.filters.has("q") });
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
addEventListener("popstate", () => inside && !/^#sign-in=/.test(location.hash) && route());
addEventListener("hashchange", () => /^#sign-in=/.test(location.hash) && enter());
addEventListener("online", () => view?.refresh());
document.addEventListener("visibilitychange", () => {
  showCounts();
  if (!document.hidden) view?.refresh();
});

enter();
