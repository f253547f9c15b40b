// A view: one workspace with some filters. It reads the history, then follows the stream from that position, reconnects
// after an outage with its position, and stops when the server says not to reconnect.

import { backoff, call, sessionEnded, sleep } from "./api.js";
import { add, append, pageBefore, showEmpty } from "./feed.js";
import { events, lookUp } from "./page.js";
import { summary } from "./rows.js";
import { state } from "./state.js";
import { REASONS, notice, say, sayCount, setState } from "./status.js";
import { loadWorkspaces } from "./workspaces.js";

const STALE = 30_000; // ms of silence after which a stream is reopened when the page becomes visible again

export class View {
  constructor(workspace, filters) {
    this.workspace = workspace;
    this.filters = filters;
    this.base = `v1/workspaces/${encodeURIComponent(workspace)}`;
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
    if (!state.workspaces.some(({ id }) => id === this.workspace)) loadWorkspaces();
    const page = await this.insist(() => pageBefore(this));
    if (!page) return;
    state.empty = "quiet";
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
      if (!reconnect) this.stop(lookUp(REASONS, reason) ?? `The server ended the stream: ${reason}.`);
    });
    // The browser reconnects by itself and sends its position, unless the response was an error.
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

  /** After sleep or a network change a dead connection may look alive, because the browser hides heartbeats from scripts. */
  refresh() {
    const open = this.source && !this.signal.aborted && !this.recovering;
    if (open && performance.now() - this.heardAt > STALE) this.listen();
  }

  stop(reason) {
    this.close();
    setState("offline");
    notice(reason);
  }

  /** Repeat until it succeeds. Returns nothing if it never will, or if nobody waits for it any more. */
  async insist(step) {
    while (!this.signal.aborted) {
      try {
        const result = await step();
        return this.signal.aborted ? undefined : result;
      } catch (error) {
        if (this.signal.aborted) return;
        if (error.status === 401) {
          sessionEnded();
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
