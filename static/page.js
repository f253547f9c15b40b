// What all parts of the page write with: its elements, its numbers and times, and addresses of the page itself. Data
// reaches the document as text only (textContent, setAttribute), never as markup.

/** Look a name from the log up in a table: its own entries only, for an event may be called `constructor` or `__proto__`. */
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

/** The address of this page with some parameters set or, if they are empty, taken away. */
export function link(changes) {
  const query = new URLSearchParams(location.search);
  for (const [name, value] of Object.entries(changes)) {
    if (value) query.set(name, value);
    else query.delete(name);
  }
  return query.size ? `?${query}` : location.pathname;
}

/** Select a value, also one that is not in the list. */
export function select(element, value) {
  if (![...element.options].some((option) => option.value === value)) element.add(new Option(value, value));
  element.value = value;
}
