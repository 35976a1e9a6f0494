// The browser of samples, and the same problem early and late. What a model wrote is only ever set as text, never as HTML.
"use strict";

const AT_ONCE = 10;
const A_SIDE = 4;

// The packed samples as objects; `problem` is shared by all rows of one problem.
async function unpack(text) {
  if (!text) return { problems: [], rows: [] };
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const packed = JSON.parse(await new Response(stream).text());
  const problems = packed.problems.map(([id, level, prompt, gold]) => ({ id, level, prompt, gold, times: new Set(), rows: [] }));
  const rows = packed.rows.map(([run, step, kind, place, ...values]) => {
    const row = { run, step, kind, problem: problems[place] };
    packed.fields.forEach((name, i) => (row[name] = values[i]));
    row.problem.times.add(run + "/" + step);
    row.problem.rows.push(row);
    return row;
  });
  return { problems, rows };
}

// The text with every place of the needle marked; nodes only, so that nothing in it is read as HTML.
function marked(text, needle) {
  const parts = document.createDocumentFragment();
  const low = needle ? text.toLowerCase() : "";
  let from = 0;
  // in some languages lower case has another length: then nothing is marked
  for (let at = needle && low.length === text.length ? low.indexOf(needle) : -1; at >= 0; at = low.indexOf(needle, from)) {
    parts.append(text.slice(from, at), element("mark", {}, text.slice(at, at + needle.length)));
    from = at + needle.length;
  }
  parts.append(text.slice(from));
  return parts;
}

function chips(row, runs, whole) {
  const found = [];
  const chip = (text, kind) => found.push(element("span", { class: "chip " + (kind || "") }, text));
  if (whole && runs.length > 1) chip(runs[row.run], "run" + ((row.run % 6) + 1));
  if (whole) chip("step " + row.step);
  chip(row.kind);
  if (whole && row.problem.level !== null) chip("level " + row.problem.level);
  if (row.correct !== null) chip(row.correct ? "\u2713 right" : "\u2717 wrong", row.correct ? "good" : "bad");
  if (row.accepted !== null) chip(row.accepted ? "accepted" : "refused", row.accepted ? "good" : "bad");
  if (row.finish_reason === "length") chip("truncated", "bad");
  return found;
}

function facts(row) {
  const list = element("dl", { class: "facts" });
  const fact = (name, value) => {
    if (value !== null && value !== undefined) list.append(element("div", {}, element("dt", {}, name), element("dd", {}, String(value))));
  };
  if (row.correct !== null) fact("extracted answer", row.answer === null ? "none" : row.answer);
  fact("gold", row.problem.gold);
  fact("reason", row.reason);
  fact("how", row.how);
  fact("refused for", row.refusal);
  fact("lift", row.lift_nats === null ? null : row.lift_nats.toFixed(2) + " nats");
  fact("tokens", row.n_tokens);
  return list;
}

function block(name, text, needle) {
  return element("div", { class: "block" }, element("h4", {}, name), element("pre", { tabindex: "0" }, marked(text, needle)));
}

// The prompt as the model read it, with the chat template; of older runs the question alone.
function promptOf(row) {
  const read = figures.prompts[row.run][row.kind === "explanation" ? "explanation" : "question"] || "{question}";
  const own = { question: row.problem.prompt.trim(), answer: String(row.problem.gold) };
  return read.replace(/\{(question|answer)\}/g, (_, name) => own[name]);
}

function folded(name, ...children) {
  return element("details", {}, element("summary", {}, name), ...children);
}

// With `compare`, which opens a problem in the part below, all is said; without it, what that part says already is left out.
function card(row, runs, needle, compare, before) {
  const head = element("div", { class: "head" }, ...chips(row, runs, compare !== null));
  if (compare) head.append(element("code", {}, row.problem.id));
  if (compare && row.problem.times.size > 1) {
    const button = element("button", { type: "button", class: "link" }, "early and late");
    button.addEventListener("click", () => compare(row.problem));
    head.append(button);
  }
  const asked = promptOf(row);
  const again = compare && before && before.problem === row.problem && promptOf(before) === asked;
  const texts = element("div", { class: compare && !again ? "texts" : "texts one" });
  if (again) {
    const prompt = folded("Prompt, as above", block("Prompt", asked, needle));
    prompt.open = needle !== "" && asked.toLowerCase().includes(needle);
    texts.append(prompt);
  } else if (compare) texts.append(block("Prompt", asked, needle));
  texts.append(block("Completion", row.completion, needle));
  return element("article", { class: "card sample" }, head, texts, facts(row));
}

function options(select, values, name) {
  values.forEach((value) => select.append(element("option", { value: String(value) }, name ? name(value) : String(value))));
}

function byNumber(a, b) {
  return Number(a) - Number(b) || String(a).localeCompare(String(b));
}

function matches(row, wanted) {
  const verdict = wanted.verdict;
  const fits =
    !verdict ||
    (verdict === "right" && row.correct === true) ||
    (verdict === "wrong" && row.correct === false) ||
    (verdict === "accepted" && row.accepted === true) ||
    (verdict === "refused" && row.accepted === false) ||
    (verdict === "truncated" && row.finish_reason === "length") ||
    (verdict.startsWith("reason ") && row.reason === verdict.slice(7));
  return (
    fits &&
    (!wanted.run || row.run === Number(wanted.run)) &&
    (!wanted.kind || row.kind === wanted.kind) &&
    (!wanted.level || String(row.problem.level) === wanted.level) &&
    (!wanted.from || row.step >= Number(wanted.from)) &&
    (!wanted.to || row.step <= Number(wanted.to)) &&
    (!wanted.text || row.problem.id.toLowerCase() === wanted.text || [row.problem.prompt, row.completion, row.answer || ""].some((text) => text.toLowerCase().includes(wanted.text)))
  );
}

function browse(rows, runs, compare) {
  const form = document.getElementById("filters");
  const list = document.getElementById("list");
  const more = document.getElementById("more");
  const distinct = (of) => [...new Set(rows.map(of))].filter((value) => value !== null && value !== undefined).sort(byNumber);
  options(form.run, runs.map((_, i) => i), (i) => runs[i]);
  options(form.kind, distinct((row) => row.kind));
  options(form.level, distinct((row) => row.problem.level));
  const verdicts = ["right", "wrong"];
  if (rows.some((row) => row.accepted !== null)) verdicts.push("accepted", "refused");
  if (rows.some((row) => row.finish_reason === "length")) verdicts.push("truncated");
  options(form.verdict, verdicts);
  options(form.verdict, distinct((row) => row.reason).map((reason) => "reason " + reason), (value) => "reason: " + value.slice(7));

  let found = [];
  let shown = 0;
  const show = () => {
    const needle = form.text.value.trim().toLowerCase();
    const last = Math.min(shown + AT_ONCE, found.length);
    for (let i = shown; i < last; i++) list.append(card(found[i], runs, needle, compare, i % AT_ONCE ? found[i - 1] : null));
    shown = last;
    more.hidden = shown >= found.length;
    more.textContent = `Show ${Math.min(AT_ONCE, found.length - shown)} more`;
  };
  const filter = () => {
    const wanted = Object.fromEntries(new FormData(form));
    wanted.text = wanted.text.trim().toLowerCase();
    found = rows.filter((row) => matches(row, wanted));
    if (wanted.order === "last") found.sort((a, b) => b.step - a.step); // stable: rows of a step stay as they are
    shown = 0;
    list.replaceChildren();
    const number = (n) => n.toLocaleString("en");
    document.getElementById("count").textContent = `${number(found.length)} of ${number(rows.length)} samples`;
    show();
  };
  const isSelect = (event) => event.target.tagName === "SELECT";
  form.addEventListener("input", (event) => isSelect(event) || filter());
  form.addEventListener("change", (event) => isSelect(event) && filter());
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(filter));
  more.addEventListener("click", show);
  filter();

  // a problem named elsewhere on the page leads to its samples, if they are in the file
  const ids = new Set(rows.map((row) => row.problem.id));
  document.querySelectorAll("[data-problem]").forEach((place) => {
    if (!ids.has(place.dataset.problem)) return;
    const button = element("button", { type: "button", class: "link" }, place.dataset.problem);
    button.addEventListener("click", () => {
      form.querySelectorAll("select, input").forEach((field) => (field.value = field.name === "order" ? "first" : ""));
      form.text.value = place.dataset.problem;
      filter();
      document.getElementById("samples").scrollIntoView();
    });
    place.replaceChildren(button);
  });
}

// What counts as a try of the policy, with no answer in sight.
function isTry(row) {
  return row.kind === "rollout" || row.kind === "held-out";
}

// Both sides of one problem: any two times that it was drawn, first and last to begin with. Returns what shows a problem there.
function sideBySide(problems, runs) {
  const twice = problems.filter((problem) => problem.times.size > 1);
  document.getElementById("twice").hidden = !twice.length;
  document.getElementById("once").hidden = twice.length > 0;
  const pick = document.getElementById("problem");
  const sides = ["left", "right"].map((name) => [document.getElementById(name), document.getElementById(name + "-list")]);
  const rowsOf = (problem, time) => problem.rows.filter((row) => row.run + "/" + row.step === time);
  const name = (time) => (runs.length > 1 ? runs[time.split("/")[0]] + ", " : "") + "step " + time.split("/")[1];

  const sorted = (problem) => [...problem.times].sort((a, b) => byNumber(a.split("/")[0], b.split("/")[0]) || byNumber(a.split("/")[1], b.split("/")[1]));

  const fill = (side) => {
    const [select, list] = side;
    const own = rowsOf(twice[Number(pick.value)], select.value);
    const tries = own.filter(isTry);
    const right = tries.filter((row) => row.correct).length;
    const summary = tries.length ? `${right} of ${tries.length} tries in this file are right` : "no try in this file";
    const order = (row) => (isTry(row) ? 1 : 0) + (row.correct ? 0 : 1);
    const cards = own.sort((a, b) => order(a) - order(b)).map((row) => card(row, runs, "", null, null));
    const rest = cards.splice(A_SIDE);
    list.replaceChildren(element("p", { class: "about" }, summary), ...cards);
    if (rest.length) list.append(folded(`${rest.length} more`, ...rest));
  };
  const open = () => {
    const problem = twice[Number(pick.value)];
    const times = sorted(problem);
    sides.forEach(([select], i) => {
      select.replaceChildren();
      options(select, times, name);
      select.value = times[i ? times.length - 1 : 0];
    });
    document.getElementById("asked").replaceChildren(block("Prompt", promptOf({ ...problem.rows[0], kind: "" }), ""), element("p", {}, "Gold: ", element("b", {}, String(problem.gold))));
    sides.forEach(fill);
  };
  // the problem that gained most comes first
  const share = (problem, time) => {
    const own = rowsOf(problem, time).filter(isTry);
    return own.length ? own.filter((row) => row.correct).length / own.length : 0;
  };
  const gains = new Map(twice.map((problem) => [problem, share(problem, sorted(problem).at(-1)) - share(problem, sorted(problem)[0])]));
  twice.sort((a, b) => gains.get(b) - gains.get(a));
  options(pick, twice.keys(), (i) => `${twice[i].level === null ? "" : "level " + twice[i].level + ", "}${twice[i].id}`);
  pick.addEventListener("change", open);
  sides.forEach((side) => side[0].addEventListener("change", () => fill(side)));
  if (twice.length) open();
  return (problem) => {
    pick.value = String(twice.indexOf(problem));
    open();
    document.getElementById("early").scrollIntoView();
  };
}
