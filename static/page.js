// Shared by all parts of the page: its elements, number and time formats, and addresses of the page itself. Data is
// inserted into the document as text only (textContent, setAttribute), never as markup.

/** Look up a name from the log in a table: only its own entries, because an event may be called `constructor` or
 * `__proto__`. */
export const lookUp = (table, name) => (Object.hasOwn(table, name) ? table[name] : undefined);

const KINDS = { user: "person", agent: "agent", system: "system" };
export const kindOf = (type) => lookUp(KINDS, type);

export const $ = (id) => document.getElementById(id);
export const feed = $("feed");
export const scroller = $("scroller");
export const narrow = matchMedia("(max-width: 900px)");
export const number = new Intl.NumberFormat();

const two = (value) => String(value).padStart(2, "0");
export const localDate = (time) => `${time.getFullYear()}-${two(time.getMonth() + 1)}-${two(time.getDate())}`;
export const localTime = (time) => `${two(time.getHours())}:${two(time.getMinutes())}:${two(time.getSeconds())}`;
export const events = (count, word = "") => `${number.format(count)} ${word}${count === 1 ? "event" : "events"}`;

/** The address of this page with some parameters set or, if they are empty, removed. */
export function link(changes) {
  const query = new URLSearchParams(location.search);
  for (const [name, value] of Object.entries(changes)) {
    if (value) query.set(name, value);
    else query.delete(name);
  }
  return query.size ? `?${query}` : location.pathname;
}

/** Select a value, even if it is not in the list. */
export function select(element, value) {
  if (![...element.options].some((option) => option.value === value)) element.add(new Option(value, value));
  element.value = value;
}
