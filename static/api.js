// The way to the server: one call of the JSON API, the errors it may end with, and how long to wait before the next
// try. No credential is kept here: the session is a cookie that scripts cannot read.

const ANSWER_WITHIN = 15_000; // ms

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

/** Call the API; `path` is relative to the page, which a proxy may serve under a path of its own. */
export async function call(method, path, { body, signal } = {}) {
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

export const sleep = (ms, signal) =>
  new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => (clearTimeout(timer), resolve()));
  });

export const backoff = (failures) => Math.min(30_000, 1000 * 2 ** failures) * (0.5 + Math.random() / 2);

/** Tell the page that the server does not know its session any more; `app.js` leads to the door. */
export const sessionEnded = () => dispatchEvent(new Event("sessionended"));
