// What every page needs: elements made without markup, the API with the reader's key, streams of events, one status line.

let key = ""; // in memory only

export function setKey(value) {
  key = value;
}

// An element with attributes and children; text is always text, whatever stands in it.
export function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) {
    if (attribute === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (value === true) element.setAttribute(attribute, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(attribute, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

export class ApiProblem extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// A request to this server; throws ApiProblem with the server's own words.
export async function api(path, { body, signal } = {}) {
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  const options = { headers, signal, cache: "no-store", credentials: "omit", referrerPolicy: "no-referrer" };
  if (body !== undefined) {
    headers["content-type"] = "application/json";
    Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiProblem(0, "The server cannot be reached.");
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  throw new ApiProblem(response.status, said.error?.message || `The server answered ${response.status}.`);
}

// The data objects of a stream of server-sent events, as they come.
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch((error) => {
      if (error.name === "AbortError") throw error;
      return { done: true };
    });
    rest += value || "";
    const blocks = rest.split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      if (!block.startsWith("data: ")) continue; // a comment that keeps the connection open
      const data = block.slice(6);
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new ApiProblem(500, event.error.message);
      yield event;
    }
    if (done) throw new ApiProblem(0, "The answer broke off.");
  }
}

// Tells those who cannot see the page what has happened on it.
export function tell(text) {
  document.getElementById("status").textContent = text;
}

export function showProblem(element, text) {
  element.textContent = text;
  element.hidden = !text;
}

// Segments of a passage as text with marked quotes; several quotes may share words.
export function markedText(segments) {
  const open = new Set();
  return segments.map(({ text, quotes }) => {
    if (!quotes.length) {
      open.clear();
      return document.createTextNode(text);
    }
    const fresh = quotes.filter((number) => !open.has(number));
    open.clear();
    quotes.forEach((number) => open.add(number));
    const label = fresh.length ? el("span", { class: "unseen" }, `Quote ${fresh.join(" and ")}: `) : null;
    return el("mark", { class: quotes.length > 1 ? "several" : null, "data-quotes": quotes.join(" ") }, label, text);
  });
}
