// Shows a prediction: digit, warnings, probabilities, the frame, its explanation, and a comparison of two versions.

import * as messages from "/draw/messages.js";

const SIGMA = 1.5; // pixels; smooths the attribution, since max pooling selects single pixels of a stroke
const FOR = [200, 20, 40], AGAINST = [30, 70, 220]; // RGB

const find = (id) => document.getElementById(id);

// Adds ten bars; `onSelect` is called with the digit whose bar is pressed.
export function makeBars(onSelect) {
  for (let digit = 0; digit < 10; digit++) {
    const bar = makeElement("button", { type: "button", disabled: true });
    bar.append(makeElement("span", { textContent: digit }), makeElement("span", { className: "tracks" }),
      makeElement("span", { className: "percent" }));
    bar.addEventListener("click", () => onSelect(digit));
    const item = document.createElement("li");
    item.append(bar);
    find("bars").append(item);
  }
  showBars([]);
}

export function showPrediction(prediction) {
  showOutcome(prediction, messages.formatPrediction(prediction), prediction.digit);
  document.body.classList.add("unexplained");
  showBars([prediction]);
}

// Shows a number and its digits, of which the first is selected.
export function showNumber(number) {
  showOutcome(number, messages.formatNumber(number), "");
  clearExplanation();
  find("digits").replaceChildren(...number.digits.map(makeDigit));
  find("digits").querySelector("button").click();
}

function makeDigit(digit) {
  const item = document.createElement("li"), className = digit.accepted ? "" : "rejected";
  const button = makeElement("button", { type: "button", textContent: digit.digit, className });
  button.setAttribute("aria-label", messages.formatDigit(digit));
  button.addEventListener("click", () => showDigit(digit, button));
  item.append(button);
  return item;
}

function showDigit(digit, button) {
  for (const other of find("digits").querySelectorAll("button")) other.setAttribute("aria-pressed", String(other === button));
  showBars([digit]);
  for (const bar of getBars()) bar.disabled = true; // a number has no explanation
}

function showOutcome(prediction, text, digit) {
  showResult(text);
  find("digit").textContent = digit;
  find("digits").replaceChildren();
  const warnings = prediction.warnings.map(messages.formatWarning);
  find("warnings").replaceChildren(...warnings.map((textContent) => makeElement("li", { textContent })));
  const state = document.body.classList;
  state.toggle("accepted", prediction.accepted);
  state.toggle("rejected", !prediction.accepted);
  state.remove("outdated");
  selectBar(null);
  showProblem("");
  hideComparison();
}

// Clears the prediction and shows `text` instead.
export function clearPrediction(text) {
  showResult(text);
  find("digit").textContent = "?";
  find("digits").replaceChildren();
  find("warnings").replaceChildren();
  document.body.classList.remove("accepted", "rejected", "outdated");
  hideComparison();
  showBars([]);
  clearExplanation();
}

// Marks the prediction as outdated: it is not for the current image.
export function markOutdated(isOutdated) {
  document.body.classList.toggle("outdated", isOutdated);
}

export function showProblem(text) {
  find("problem").textContent = text;
}

export function showResult(text) {
  find("result").textContent = text;
}

export function showComparison(one, other) {
  find("comparison").hidden = false;
  find("comparison-text").textContent = messages.formatComparison(one, other);
  find("comparison").tBodies[0].replaceChildren(makeRow(one), makeRow(other));
  showBars([one, other]);
}

export function showExplanation(explanation, digit) {
  const text = messages.formatExplanation(explanation, digit);
  paint(find("frame"), explanation.framed, (gray) => [gray, gray, gray]);
  find("frame").setAttribute("aria-label", "Input of the model: the drawing, bright on black, centred and scaled");
  const values = smooth(explanation.attribution);
  const maximum = Math.max(...values.flat().map(Math.abs), 1e-9);
  paint(find("explanation"), explanation.framed, (gray, y, x) => blend(255 - gray / 3, values[y][x] / maximum));
  find("explanation").setAttribute("aria-label", text);
  find("explanation-text").textContent = text;
  document.body.classList.remove("unexplained", "empty");
  selectBar(explanation.target);
}

// Hides frame and explanation, as there are none for the current image.
export function clearExplanation() {
  find("explanation-text").textContent = "";
  document.body.classList.remove("unexplained");
  document.body.classList.add("empty");
  selectBar(null);
}

export function selectBar(target) {
  getBars().forEach((bar, digit) => bar.setAttribute("aria-pressed", String(digit === target)));
}

function hideComparison() {
  find("comparison").hidden = true;
  find("comparison-text").textContent = "";
}

function getBars() {
  return [...find("bars").querySelectorAll("button")];
}

function showBars(predictions) {
  getBars().forEach((bar, digit) => {
    const shares = predictions.length ? predictions.map((prediction) => prediction.probabilities[digit]) : [0];
    const [, tracks, percent] = bar.children;
    while (tracks.children.length < shares.length) tracks.append(makeTrack(tracks.children.length));
    while (tracks.children.length > shares.length) tracks.lastChild.remove();
    shares.forEach((share, index) => tracks.children[index].firstChild.style.setProperty("--share", share));
    percent.textContent = predictions.length ? messages.formatPercent(shares[0]) : "";
    bar.disabled = predictions.length === 0;
    const label = predictions.length ? `${digit}: ${shares.map(messages.formatPercent).join(" and ")}` : `${digit}`;
    bar.setAttribute("aria-label", label);
  });
}

function makeTrack(index) {
  const track = makeElement("span", { className: index ? "track second" : "track" });
  track.append(document.createElement("span"));
  return track;
}

function makeRow(prediction) {
  const { model_version, digit, confidence, accepted } = prediction;
  const cells = [model_version, digit, messages.formatPercent(confidence), accepted ? "yes" : "no"];
  const row = document.createElement("tr");
  row.append(...cells.map((text, index) =>
    makeElement(index ? "td" : "th", { textContent: text, ...(index ? {} : { scope: "row" }) })));
  return row;
}

// Sets every pixel to `getColor` of its level, row and column.
function paint(canvas, levels, getColor) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  levels.forEach((line, y) => line.forEach((level, x) => {
    image.data.set([...getColor(level, y, x), 255], 4 * (y * canvas.width + x));
  }));
  context.putImageData(image, 0, 0);
}

// Blends gray with red for a positive value in −1..1, with blue for a negative one.
function blend(gray, value) {
  const share = Math.abs(value);
  return (value > 0 ? FOR : AGAINST).map((level) => gray + (level - gray) * share);
}

// Applies a Gaussian filter along rows and columns.
function smooth(values) {
  return transpose(smoothRows(transpose(smoothRows(values))));
}

function smoothRows(values) {
  const reach = Math.ceil(3 * SIGMA);
  const offsets = Array.from({ length: 2 * reach + 1 }, (_, index) => index - reach);
  const weights = offsets.map((offset) => Math.exp(-(offset ** 2) / (2 * SIGMA ** 2)));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  return values.map((line) => line.map((_, x) =>
    offsets.reduce((sum, offset, index) => sum + (line[x + offset] ?? 0) * weights[index], 0) / total));
}

function transpose(values) {
  return values[0].map((_, x) => values.map((line) => line[x]));
}

function makeElement(name, properties) {
  return Object.assign(document.createElement(name), properties);
}
