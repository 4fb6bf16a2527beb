const data = JSON.parse(document.getElementById("data").textContent);
const form = document.getElementById("filters");
const cards = document.getElementById("cards");
const more = document.getElementById("more");
const PAGE = 20;
let found = [], shown = 0;

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function fill(select, options) {
  const kept = select.value;
  select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
  if (options.some(([value]) => value === kept)) select.value = kept;
}

// Every (set, place) of one student with its methods' winners and, once somebody searches, all of its text.
const students = data.students.map((student) => ({
  ...student,
  items: student.sets.flatMap((set) => data.sets[set].prompts.map((prompt, place) => {
    const points = student.models.slice(1).map(([home]) => data.answers[home][set][place][1]);
    const best = Math.max(0, ...points);
    return { set, place, prompt, winners: student.models.slice(1).filter((_, i) => best > 0 && points[i] === best).map(([, key]) => key) };
  })),
}));

// Which models a reader has switched off in the charts, student by student.
const off = Object.fromEntries(Object.keys(data.compared).map((name) => [name, new Set()]));

function textOf(student, item) {
  item.text ??= [item.prompt.flat().join(" "), ...student.models.map(([home]) => data.answers[home][item.set][item.place][0])].join(" ").toLowerCase();
  return item.text;
}

function answer(name, text, rouge, cut, won) {
  const box = element("div", won ? "won" : "");
  const title = element("h4", "", `${name} `);
  if (rouge !== undefined) title.append(element("span", "soft", rouge.toFixed(0) + (cut ? " · cut off" : "")));
  box.append(title, text ? element("p", "text", text) : element("p", "empty", "(empty)"));
  return box;
}

function card(student, item) {
  const [id, instruction, input, category, references] = item.prompt;
  const made = element("article");
  made.append(element("div", "soft", [item.set, id, category].filter((part) => part !== "").join(" · ")));
  const asked = element("div", "asked");
  asked.append(element("p", "text", instruction));
  if (input) asked.append(element("p", "text soft", input));
  const answers = element("div", "answers");
  answers.append(answer(references.length > 1 ? "References" : "Reference", references.join("\n\n")));
  for (const [home, key, name] of student.models.filter(([, key]) => !off[student.name].has(key))) {
    const [text, rouge, cut] = data.answers[home][item.set][item.place];
    answers.append(answer(name, text, rouge, cut, item.winners.includes(key)));
  }
  made.append(asked, answers);
  return made;
}

const current = () => students.find((student) => student.name === form.student.value) ?? students[0];

function showMore() {
  const student = current();
  cards.append(...found.slice(shown, shown + PAGE).map((item) => card(student, item)));
  shown = Math.min(found.length, shown + PAGE);
  more.hidden = shown === found.length;
  more.textContent = `Show more (${found.length - shown} left)`;
}

function filter() {
  const student = current();
  fill(form.set, [["", "all sets"], ...student.sets.map((set) => [set, set])]);
  fill(form.winner, [["", "whoever is best"], ...student.models.slice(1).map(([, key, name]) => [key, `${name} is best`])]);
  const words = form.words.value.toLowerCase().split(/\s+/).filter(Boolean);
  found = student.items.filter((item) => (!form.set.value || item.set === form.set.value)
    && (!form.winner.value || item.winners.includes(form.winner.value))
    && words.every((word) => textOf(student, item).includes(word)));
  const left = student.sets.reduce((sum, set) => sum + data.sets[set].total - data.sets[set].prompts.length, 0);
  document.getElementById("count").textContent = `${found.length} of ${student.items.length} prompts`
    + (left ? `, ${left} more are left out to keep the page small` : "");
  cards.replaceChildren();
  shown = 0;
  showMore();
}

// --- compare with another model ---

const WORDS = { "▲": "better", "▼": "worse", "≈": "not distinguishable", "?": "too few prompts to tell", "∅": "not judged: both guess" };

function paintSign(cell, sign, mark = "") {
  let made = cell.querySelector(".sign");
  if (!made && !sign && !mark) return;
  if (!made) cell.insertBefore(made = element("span", "sign"), cell.querySelector("small"));
  made.textContent = (sign ? "\u00a0" : "") + sign + mark;
  made.title = WORDS[sign] ?? "";
}

function paint(cell, [text, sign, detail, tone, mark]) {
  cell.className = tone;
  cell.replaceChildren(text);
  paintSign(cell, sign, mark);
  if (detail) cell.append(element("small", "", detail));
}

function compare(reference) {
  for (const select of document.querySelectorAll("select.pick")) select.value = reference;
  for (const [name, byReference] of Object.entries(data.compared)) {
    const compared = byReference[reference];
    for (const row of document.querySelectorAll("#results tr[data-model]")) {
      if (row.dataset.owner !== name) continue;
      const signs = compared?.signs[row.dataset.model];
      [...row.querySelectorAll("td")].forEach((cell, i) => paintSign(cell, signs?.[i] ?? ""));
    }
    for (const part of document.querySelectorAll(".paired, .absent")) {
      if (part.dataset.owner === name) part.hidden = part.matches(".paired") ? !compared : Boolean(compared);
    }
    for (const table of document.querySelectorAll("table[data-part]")) {
      if (table.dataset.owner !== name || !compared) continue;
      for (const row of table.querySelectorAll("tr[data-model]")) {
        const cells = compared.parts[table.dataset.part][row.dataset.model];
        [...row.querySelectorAll("td")].forEach((cell, i) => paint(cell, cells[i]));
        row.classList.toggle("reference", row.dataset.model === reference);
      }
    }
  }
}

if (data.references.length > 1) {
  for (const name of document.querySelectorAll(".pick")) {
    const select = element("select", "pick");
    select.setAttribute("aria-label", "Compare with");
    fill(select, data.references);
    select.addEventListener("change", () => compare(select.value));
    name.replaceWith(select);
  }
}
if (data.reference) compare(data.reference);

// --- switch models off in the charts ---

function fade(legend) {
  const hidden = off[legend.dataset.owner];
  for (const box of legend.querySelectorAll("input")) box.checked = !hidden.has(box.value);
  for (const drawn of legend.parentElement.querySelectorAll("svg [data-model]")) {
    drawn.classList.toggle("faded", hidden.has(drawn.dataset.model));
  }
  // a panel that has none of the models left says nothing
  for (const figure of legend.parentElement.querySelectorAll("figure")) {
    figure.hidden = !figure.querySelector("[data-model]:not(.faded)");
  }
  if (current().name === legend.dataset.owner) filter();
}

for (const legend of document.querySelectorAll(".legend")) {
  const hidden = off[legend.dataset.owner];
  const all = [...legend.querySelectorAll("[data-model]")].map((label) => label.dataset.model);
  for (const label of legend.querySelectorAll("[data-model]")) {
    const box = Object.assign(element("input"), { type: "checkbox", value: label.dataset.model, checked: true });
    box.addEventListener("change", () => {
      if (box.checked) hidden.delete(box.value);
      else hidden.add(box.value);
      fade(legend);
    });
    label.prepend(box);
  }
  for (const heading of legend.querySelectorAll(".heading")) {
    const own = [...heading.parentElement.querySelectorAll("[data-model]")].map((label) => label.dataset.model);
    const button = Object.assign(element("button", "heading", heading.textContent), { type: "button", title: "Show these alone, or all again" });
    button.addEventListener("click", () => {
      const rest = all.filter((name) => !own.includes(name));
      const alone = rest.every((name) => hidden.has(name)) && !own.some((name) => hidden.has(name));
      hidden.clear();
      if (!alone) rest.forEach((name) => hidden.add(name));
      fade(legend);
    });
    heading.replaceWith(button);
  }
}

// --- responses ---

fill(form.student, students.map((student) => [student.name, student.name]));
form.student.hidden = students.length < 2;
form.addEventListener("input", filter);
form.addEventListener("submit", (event) => event.preventDefault());
more.addEventListener("click", showMore);
filter();
