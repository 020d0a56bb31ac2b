// The page to ask: an answer that streams in, its quotes in their passages, the base beside it, and what people say of it.

import { ApiProblem, api, el, events, markedText, setKey, showProblem, tell } from "./kit.js";

const $ = (id) => document.getElementById(id);
const main = $("main");
const keyed = main.dataset.keyed === "yes";
const rated = main.dataset.rated === "yes";
const problem = $("problem");
let adapters = new Set(); // names that a version can be of
let abort = null;
let count = 0;

// ---- models and key

const TITLES = new Map([["auto", "Automatic"], ["mix", "Mixed"]]);

async function loadModels() {
  const { data } = await (await api("/v1/models")).json();
  const names = data.map((model) => model.id).filter((name) => name !== "base");
  const first = names.filter((name) => TITLES.has(name)).sort();
  adapters = new Set(names.filter((name) => !TITLES.has(name)));
  const chosen = $("model").value;
  const ordered = [...first, ...adapters];
  $("model").replaceChildren(...ordered.map((name) => el("option", { value: name }, TITLES.get(name) || name)));
  if (ordered.includes(chosen)) $("model").value = chosen;
  $("send").disabled = !ordered.length;
  showProblem(problem, ordered.length ? "" : "No adapter is served: the server's log says why.");
}

let loaded = Promise.resolve(); // who asks at once waits for it

function begin() {
  if (keyed) askForKey();
  else loaded = loadModels().catch((error) => showProblem(problem, error.message));
}

function askForKey() {
  $("key").value = "";
  showProblem($("key-problem"), "");
  if (!$("key-dialog").open) $("key-dialog").showModal();
}

if (keyed) {
  $("change-key").addEventListener("click", askForKey);
  $("key-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    setKey($("key").value.trim());
    try {
      await loadModels();
      $("key").value = "";
      $("key-dialog").close();
      $("question").focus();
    } catch (error) {
      showProblem($("key-problem"), error.status === 401 ? "The server does not know this key." : error.message);
    }
  });
}

// ---- asking

$("question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("ask").requestSubmit();
});
$("stop").addEventListener("click", () => abort?.abort());
$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const question = $("question").value.trim();
  if (question && !abort) run(question, $("beside").checked);
});

async function run(question, beside) {
  abort = new AbortController();
  busy(true);
  await loaded;
  const model = $("model").value;
  if (!model) {
    abort = null;
    busy(false);
    if (keyed) askForKey();
    return;
  }
  showProblem(problem, "");
  const article = new Answered(question);
  $("answers").prepend(article.element);
  tell("Searching.");
  try {
    const answered = await stream(question, model, article.adapter, abort.signal);
    article.finished(answered);
    if (beside) await besideIt(question, answered, article, abort.signal);
    tell(article.summary(answered));
  } catch (error) {
    if (error.name === "AbortError") {
      article.failed("Stopped.");
      tell("Stopped.");
    } else {
      if (error.status === 401 && keyed) askForKey();
      article.failed(error instanceof ApiProblem ? error.message : "The page failed on this answer.");
    }
  } finally {
    abort = null;
    busy(false);
  }
}

// While an answer is on its way, the one button stands in the other's place and takes its focus.
function busy(on) {
  const [shown, gone] = on ? [$("stop"), $("send")] : [$("send"), $("stop")];
  const focused = document.activeElement === gone;
  shown.hidden = false;
  gone.hidden = true;
  if (focused) (on ? shown : $("question")).focus();
}

// Streams one answer into a side; returns what is known of it at its end.
async function stream(question, model, side, signal) {
  const messages = [{ role: "user", content: question }];
  const response = await api("/v1/chat/completions", { body: { model, messages, stream: true, sources: "passages" }, signal });
  const answered = { question, model, text: "", refused: false, passages: new Map(), annotations: [] };
  for await (const event of events(response)) {
    answered.model = event.model;
    side.named(event.model);
    if (event.event?.type === "passage") {
      answered.passages.set(event.event.data.number, event.event.data);
      side.found(answered.passages);
    } else if (event.event?.type === "answer") {
      answered.text = event.event.data.text;
      answered.refused = event.event.data.refused;
    }
    const delta = event.choices?.[0]?.delta || {};
    if (delta.annotations) answered.annotations = delta.annotations;
    if (delta.content) {
      if (event.event === undefined) side.more(delta.content);
    }
  }
  answered.text ||= side.text;
  side.ended(answered);
  return answered;
}

// Whether one version of one adapter answered: not the base, nor several mixed.
function isVersion(model) {
  return adapters.has(model.split("@")[0]);
}

// The base is asked over the same passages as the version that answered.
async function besideIt(question, answered, article, signal) {
  if (!isVersion(answered.model)) return;
  tell("The base model answers.");
  await stream(question, `${answered.model}/base`, article.addBase(), signal);
}

// ---- an answer on the page

class Side {
  constructor(title, note) {
    this.text = "";
    this.name = el("span", { class: "name" });
    this.words = el("div", { class: "words", "aria-busy": "true" });
    this.wait = el("p", { class: "wait" }, "Searching…");
    this.quotes = el("ol", { class: "quotes", hidden: true });
    const heading = el("h3", {}, title, this.name);
    const about = note ? el("p", { class: "hint" }, note) : null;
    this.element = el("section", { class: "side" }, heading, this.wait, this.words, this.quotes, about);
  }

  named(model) {
    if (!model.endsWith("/base")) this.name.textContent = model;
  }

  found(passages) {
    const many = passages.size;
    this.wait.textContent = `Reading ${many} ${many === 1 ? "passage" : "passages"}…`;
    this.onPassages?.(passages);
  }

  more(text) {
    this.text += text;
    this.wait.hidden = true;
    this.words.textContent = this.text;
  }

  ended(answered) {
    this.wait.hidden = true;
    this.words.textContent = answered.text || "(no answer)";
    this.words.removeAttribute("aria-busy");
    this.words.classList.toggle("refused", answered.refused);
    const items = answered.annotations.map((quote) => {
      const passage = answered.passages.get(quote.passage);
      const open = el(
        "button",
        { type: "button", class: "cite", on: { click: () => openReader(answered, quote.passage) } },
        `${quote.passage}`,
        el("span", { class: "unseen" }, `: open passage ${quote.passage}, ${passage?.title || ""}`),
      );
      const doubt = quote.verbatim ? null : el("span", { class: "doubt" }, "not word for word in the passage");
      return el("li", {}, el("q", {}, quote.quote), " ", open, doubt);
    });
    this.quotes.replaceChildren(...items);
    this.quotes.hidden = !items.length;
  }

  failed(text) {
    this.wait.hidden = true;
    this.words.removeAttribute("aria-busy");
    if (this.element.contains(this.failure)) return;
    this.failure = el("p", { class: "problem", role: "alert" }, text);
    this.element.append(this.failure);
  }
}

class Answered {
  constructor(question) {
    count += 1;
    this.id = `answer-${count}`;
    this.adapter = new Side("Answer");
    this.current = this.adapter;
    this.sides = el("div", { class: "sides" }, this.adapter.element);
    this.sources = el("section", { class: "sources", "aria-label": "Passages", hidden: true });
    this.rating = el("div", { class: "rating" });
    const heading = el("h2", { id: this.id }, question);
    this.adapter.element.append(this.rating); // it is about this answer, not about the base's
    this.element = el(
      "article",
      { class: "card answered", "aria-labelledby": this.id },
      heading,
      el("div", { class: "columns" }, this.sides, this.sources),
    );
    this.adapter.onPassages = (passages) => this.list({ passages, annotations: [] });
  }

  addBase() {
    this.current = new Side("Base model", "The same passages and the same prompt, without the adapter.");
    this.sides.append(this.current.element);
    this.sides.classList.add("two");
    return this.current;
  }

  list(answered) {
    const quoted = new Set(answered.annotations.map((one) => one.passage));
    const passages = [...answered.passages.values()];
    const titles = passages.map((passage) => passage.title);
    const items = passages.map((passage) => {
      const twice = titles.indexOf(passage.title) !== titles.lastIndexOf(passage.title);
      return this.item(answered, passage, quoted, twice);
    });
    const heading = el("h3", {}, "Passages");
    this.sources.replaceChildren(heading, el("ul", {}, ...items));
    this.sources.hidden = !items.length;
  }

  // Of two that have one title, the source tells which is which.
  item(answered, passage, quoted, twice) {
    const place = [twice ? passage.source : "", placeOf(passage)].filter(Boolean).join(" · ");
    const head = el(
      "summary",
      {},
      el("span", { class: "number" }, `${passage.number}`),
      el("span", { class: "title" }, passage.title),
      place ? el("span", { class: "page" }, place) : null,
      quoted.has(passage.number) ? el("span", { class: "tag" }, "quoted") : null,
    );
    const open = el(
      "button",
      { type: "button", class: "quiet", on: { click: () => openReader(answered, passage.number) } },
      "Open in its document",
    );
    const text = el("blockquote", {}, ...markedText(passage.segments));
    return el("li", {}, el("details", { open: quoted.has(passage.number) }, head, text, open));
  }

  finished(answered) {
    this.list(answered);
    if (rated && isVersion(answered.model) && answered.text) {
      this.rating.append(new Rating(answered).element);
    }
  }

  summary(answered) {
    const quotes = answered.annotations.length;
    return `${answered.text} ${quotes} ${quotes === 1 ? "quote" : "quotes"}.`;
  }

  failed(text) {
    this.current.failed(text);
  }
}

function placeOf(passage) {
  return passage.page ? `page ${passage.page}` : "";
}

// ---- a passage in its document

async function openReader(answered, number) {
  const passage = answered.passages.get(number);
  if (!passage) return;
  $("reader-title").textContent = passage.title;
  const where = [passage.source !== passage.title ? passage.source : "", placeOf(passage)];
  where.push(`characters ${passage.span[0]} to ${passage.span[1]}`);
  $("reader-place").textContent = where.filter(Boolean).join(" · ");
  const own = el("div", { class: "own" }, ...markedText(passage.segments));
  $("reader-text").replaceChildren(own);
  if (!$("reader").open) $("reader").showModal();
  try {
    const around = await (await api(new URL(passage.url).pathname)).json(); // on this page's own server
    if (!own.isConnected) return; // another passage was opened meanwhile
    if (around.headings?.length) $("reader-place").textContent += ` · ${around.headings.join(" › ")}`;
    own.before(el("div", { class: "around" }, around.before));
    own.after(el("div", { class: "around" }, around.after));
  } catch (error) {
    own.before(el("p", { class: "problem", role: "alert" }, `The text around it cannot be shown. ${error.message}`));
  }
  (own.querySelector("mark") || own).scrollIntoView({ block: "center" });
}

$("reader-close").addEventListener("click", () => $("reader").close());
$("reader").addEventListener("click", (event) => {
  if (event.target === $("reader")) $("reader").close(); // beside the sheet
});

// ---- what people say

class Rating {
  constructor(answered) {
    this.answered = answered;
    this.good = el("button", { type: "button", class: "thumb", on: { click: () => this.send("up", "") } }, "Right");
    this.bad = el(
      "button",
      { type: "button", class: "thumb", "aria-expanded": "false", on: { click: () => this.unfold() } },
      "Wrong",
    );
    this.said = el("p", { class: "hint", role: "status" });
    count += 1;
    const id = `correction-${count}`;
    this.correction = el("textarea", { id, rows: "2", maxlength: "4000" });
    this.form = el(
      "form",
      { class: "correction", hidden: true, on: { submit: (event) => (event.preventDefault(), this.send("down", this.correction.value.trim())) } },
      el("label", { for: id }, "What is the right answer? (may be left empty)"),
      this.correction,
      el("div", { class: "controls" }, el("button", { type: "submit", class: "main" }, "Send")),
    );
    this.choice = el("div", { class: "choice", role: "group", "aria-label": "Is this answer right?" }, el("span", {}, "Is this answer right?"), this.good, this.bad);
    this.element = el("div", {}, this.choice, this.form, this.said);
  }

  unfold() {
    this.form.hidden = !this.form.hidden;
    this.bad.setAttribute("aria-expanded", String(!this.form.hidden));
    if (!this.form.hidden) this.correction.focus();
  }

  async send(verdict, correction) {
    const { question, model, text, passages, annotations } = this.answered;
    const body = { model, question, answer: text, verdict, correction };
    body.quotes = annotations.filter((quote) => quote.verbatim).map((quote) => quote.quote);
    body.passages = [...passages.values()].map((passage) => passage.chunk_id);
    if (this.sending) return; // one word from one press
    this.sending = true;
    try {
      await api("/pages/feedback", { body });
    } catch (error) {
      this.said.textContent = `Not kept: ${error.message}`;
      return;
    } finally {
      this.sending = false;
    }
    this.form.remove();
    this.said.tabIndex = -1;
    this.said.textContent = "Thank you. It is kept for review, and trains only what somebody accepts.";
    this.choice.replaceChildren(el("span", {}, `You said: ${verdict === "up" ? "right" : "wrong"}.`));
    this.said.focus(); // the buttons that had it are gone
  }
}

begin();
