// The answer on the page: bars, digit, warnings, what the model saw, why, and two versions beside one another.

import * as words from "/draw/words.js";

const SMOOTH = 1.5; // pixels, of a Gaussian over the attribution: max pooling picks single pixels, strokes are wider
const FOR = [200, 20, 40], AGAINST = [30, 70, 220];

const find = (id) => document.getElementById(id);

// Ten bars; `chosen` is called with the digit whose bar is pressed.
export function makeBars(chosen) {
  for (let digit = 0; digit < 10; digit++) {
    const bar = element("button", { type: "button", disabled: true });
    bar.append(element("span", { textContent: digit }), element("span", { className: "tracks" }),
      element("span", { className: "percent" }));
    bar.addEventListener("click", () => chosen(digit));
    const item = document.createElement("li");
    item.append(bar);
    find("bars").append(item);
  }
  showBars([]);
}

export function showAnswer(answer) {
  say(words.verdict(answer));
  find("digit").textContent = answer.digit;
  find("warnings").replaceChildren(...answer.warnings.map((name) => element("li", { textContent: words.warning(name) })));
  const state = document.body.classList;
  state.toggle("accepted", answer.accepted);
  state.toggle("rejected", !answer.accepted);
  state.remove("old");
  state.add("unexplained");
  press(null);
  showProblem("");
  hideCompared();
  showBars([answer]);
}

// Nothing is answered; what was before stays, if at all, as something old.
export function showNothing(text) {
  say(text);
  find("digit").textContent = "?";
  find("warnings").replaceChildren();
  document.body.classList.remove("accepted", "rejected", "old");
  hideCompared();
  showBars([]);
  forget();
}

// Whether what is shown is not of now.
export function showOld(isOld) {
  document.body.classList.toggle("old", isOld);
}

export function showProblem(text) {
  find("problem").textContent = text;
}

export function say(text) {
  find("said").textContent = text;
}

export function showCompared(one, other) {
  find("compared").hidden = false;
  find("compared-said").textContent = words.compared(one, other);
  find("compared").tBodies[0].replaceChildren(row(one), row(other));
  showBars([one, other]);
}

export function showExplanation(told, digit) {
  const text = words.explained(told, digit);
  paint(find("framed"), told.framed, (grey) => [grey, grey, grey]);
  find("framed").setAttribute("aria-label", "What the model saw: the ink, bright on black, centred and of its usual size");
  const values = smoothed(told.attribution);
  const full = Math.max(...values.flat().map(Math.abs), 1e-9);
  paint(find("why"), told.framed, (grey, y, x) => blended(255 - grey / 3, values[y][x] / full));
  find("why").setAttribute("aria-label", text);
  find("why-text").textContent = text;
  document.body.classList.remove("unexplained");
  press(told.target);
}

// Before there is an explanation of what is on the sheet now.
export function forget() {
  for (const id of ["framed", "why"]) {
    const canvas = find(id);
    canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
  }
  find("framed").setAttribute("aria-label", "Nothing seen yet");
  find("why").setAttribute("aria-label", "Nothing explained yet");
  find("why-text").textContent = "Why";
  document.body.classList.remove("unexplained");
  press(null);
}

export function press(target) {
  bars().forEach((bar, digit) => bar.setAttribute("aria-pressed", String(digit === target)));
}

function hideCompared() {
  find("compared").hidden = true;
  find("compared-said").textContent = "";
}

function bars() {
  return [...find("bars").querySelectorAll("button")];
}

function showBars(answers) {
  bars().forEach((bar, digit) => {
    const shares = answers.length ? answers.map((each) => each.probabilities[digit]) : [0];
    const [, tracks, percent] = bar.children;
    while (tracks.children.length < shares.length) tracks.append(track(tracks.children.length));
    while (tracks.children.length > shares.length) tracks.lastChild.remove();
    shares.forEach((share, index) => tracks.children[index].firstChild.style.setProperty("--share", share));
    percent.textContent = answers.length ? words.percent(shares[0]) : "";
    bar.disabled = answers.length === 0;
    bar.setAttribute("aria-label", answers.length ? `${digit}: ${shares.map(words.percent).join(" and ")}` : `${digit}`);
  });
}

function track(index) {
  const made = element("span", { className: index ? "track second" : "track" });
  made.append(document.createElement("span"));
  return made;
}

function row(answer) {
  const cells = [answer.model_version, answer.digit, words.percent(answer.confidence), answer.accepted ? "yes" : "no"];
  const made = document.createElement("tr");
  made.append(...cells.map((text, index) =>
    element(index ? "td" : "th", { textContent: text, ...(index ? {} : { scope: "row" }) })));
  return made;
}

// Sets each pixel to the colour of its level, row and column.
function paint(canvas, levels, colour) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  levels.forEach((line, y) => line.forEach((level, x) => {
    image.data.set([...colour(level, y, x), 255], 4 * (y * canvas.width + x));
  }));
  context.putImageData(image, 0, 0);
}

// The grey under so much of a colour, red for values above 0.
function blended(grey, value) {
  const share = Math.abs(value);
  return (value > 0 ? FOR : AGAINST).map((level) => grey + (level - grey) * share);
}

// By a Gaussian, along rows and then along columns.
function smoothed(values) {
  return transposed(lines(transposed(lines(values))));
}

function lines(values) {
  const reach = Math.ceil(3 * SMOOTH);
  const offsets = Array.from({ length: 2 * reach + 1 }, (_, index) => index - reach);
  const weights = offsets.map((offset) => Math.exp(-(offset ** 2) / (2 * SMOOTH ** 2)));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  return values.map((line) => line.map((_, x) =>
    offsets.reduce((sum, offset, index) => sum + (line[x + offset] ?? 0) * weights[index], 0) / total));
}

function transposed(values) {
  return values[0].map((_, x) => values.map((line) => line[x]));
}

function element(name, properties) {
  return Object.assign(document.createElement(name), properties);
}
