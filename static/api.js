// Access to the server: one call of the JSON API, its errors, and how long to wait before the next attempt. No
// credential is stored here: the session is a cookie that scripts cannot read.

const ANSWER_WITHIN = 15_000; // ms

class ApiError extends Error {
  constructor(status, { code, message, details }) {
    super(message);
    this.status = status;
    this.code = code;
    this.fields = details?.fields ?? {};
  }
}

// JSON has numbers that a double cannot represent: keep them as they are written, where the browser can.
const exact = (_key, value, context) =>
  typeof value === "number" && context?.source !== undefined && context.source !== String(value) && JSON.rawJSON
    ? JSON.rawJSON(context.source)
    : value;

/** Call the API; `path` is relative to the page, because a proxy may serve it under a path. */
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
    // Not our response but, for example, a proxy's page.
  }
  throw new ApiError(response.status, error);
}

export const sleep = (ms, signal) =>
  new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => (clearTimeout(timer), resolve()));
  });

export const backoff = (failures) => Math.min(30_000, 1000 * 2 ** failures) * (0.5 + Math.random() / 2);

/** Tell the page that its session is no longer valid; `app.js` shows the sign-in page. */
export const sessionEnded = () => dispatchEvent(new Event("sessionended"));
