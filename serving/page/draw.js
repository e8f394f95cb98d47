// The page: predicts a digit that is drawn, dropped, pasted or photographed, explains it and compares versions; reads numbers.

import { DrawingCanvas } from "/draw/canvas.js";
import * as messages from "/draw/messages.js";
import * as view from "/draw/prediction.js";
import * as service from "/draw/service.js";

const POLL_MS = 1000; // while the service is not ready
const START = "Draw a digit from 0 to 9.";

const find = (id) => document.getElementById(id);
const canvas = new DrawingCanvas(find("canvas"), handleChange, view.showResult);
let state = { default: null, versions: [], max_bytes: Infinity };
let current = null; // the prediction for the content of the canvas
let target = null; // the digit to explain, if not the predicted one
let controller = new AbortController(); // of the current request
let isWaiting = false; // for the service to become ready

async function handleChange() {
  target = null;
  if (canvas.isBlank) {
    controller.abort();
    current = null;
    view.showProblem("");
    view.clearPrediction(find("number").checked ? "Draw a number." : START);
  } else {
    await predict();
  }
}

// Predicts the content of the canvas; cancels an earlier request.
async function predict(notice = "") {
  await runRequest(async (signal) => {
    startPrediction();
    const image = await canvas.getImage();
    const version = find("version").value;
    const isNumber = find("number").checked;
    current = await (isNumber ? service.readNumber : service.predict)(image, version, signal);
    (isNumber ? view.showNumber : view.showPrediction)(current);
    if (isNumber) canvas.showBoxes(current.digits.map((digit) => digit.box));
    view.showProblem(notice);
    if (version === "" && current.model_version !== state.default && !(await updateState())) return waitUntilReady();
    if (!isNumber) await explainCurrent(image, signal);
  });
}

// The prediction shown is outdated until the new one arrives.
function startPrediction() {
  current = null;
  canvas.showBoxes([]);
  view.markOutdated(true);
}

// Explains the current prediction, which stays if that fails.
async function explainCurrent(image, signal) {
  try {
    const explanation = await service.explain(image, target, current.model_version, signal);
    view.showExplanation(explanation, current.digit);
  } catch (error) {
    if (!(error instanceof service.ServiceError)) throw error;
    view.clearExplanation();
    view.showProblem(messages.formatExplanationError(error));
  }
}

async function compareVersions() {
  await runRequest(async (signal) => {
    startPrediction();
    const image = await canvas.getImage();
    const names = [find("version").value, find("other").value];
    const [one, other] = await Promise.all(names.map((version) => service.predict(image, version, signal)));
    current = one;
    view.showPrediction(one);
    view.showComparison(one, other);
    await explainCurrent(image, signal);
  });
}

async function explainDigit(digit) {
  target = digit;
  view.selectBar(digit);
  if (current) await runRequest(async (signal) => explainCurrent(await canvas.getImage(), signal));
  else await predict(); // the prediction has not arrived yet
}

// Runs `request` in place of the current one, and handles its errors.
async function runRequest(request) {
  controller.abort();
  controller = new AbortController();
  const { signal } = controller;
  try {
    await request(signal);
  } catch (error) {
    if (error.name !== "AbortError" && !signal.aborted) await handleError(error, signal);
  }
}

async function handleError(error, signal) {
  if (!(error instanceof service.ServiceError)) throw error;
  if (error.type === "ModelVersionNotFoundException") return handleMissingVersion(error, signal);
  if (!error.isTemporary) return showError(messages.formatError(error));
  view.showProblem(messages.formatError(error));
  await pause();
  if (!signal.aborted) await waitUntilReady();
}

function showError(problem) {
  current = null;
  view.clearPrediction("No prediction.");
  view.showProblem(problem);
}

// A selected version is no longer registered: the default takes its place.
async function handleMissingVersion(error, signal) {
  const selected = new Set([find("version").value, find("other").value].filter(Boolean));
  if (!(await updateState())) return waitUntilReady();
  if (signal.aborted) return;
  const missing = [...selected].filter((name) => !state.versions.includes(name));
  if (missing.length === 0) return showError(messages.formatError(error));
  await predict(messages.formatMissingVersions(missing));
}

// Waits until the service is ready; then predicts the content of the canvas, unless there is a prediction by then.
async function waitUntilReady() {
  view.markOutdated(true);
  if (isWaiting) return;
  isWaiting = true;
  while (!(await updateState())) await pause();
  isWaiting = false;
  view.markOutdated(false);
  if (canvas.isBlank) view.showProblem("");
  else if (current === null) await predict();
}

function pause() {
  return new Promise((resolve) => setTimeout(resolve, POLL_MS));
}

// Fetches the state of the service; returns whether it is ready.
async function updateState() {
  const latest = await service.getState();
  find("state").textContent = latest.problem ? `Not ready: ${latest.problem}. Waiting…` : "Ready.";
  if (latest.problem) return false;
  state = latest;
  updateVersions();
  return true;
}

// Fills the two lists of versions, the second without the version selected in the first; reports missing selections.
function updateVersions() {
  const { default: defaultVersion, versions } = state;
  const selected = ["version", "other"].map((id) => find(id).dataset.selected);
  const missing = selected.filter((name) => name && !versions.includes(name));
  if (missing.length > 0) view.showProblem(messages.formatMissingVersions(missing));
  setOptions(find("version"), [["", `default (${defaultVersion})`], ...versions.map((name) => [name, name])]);
  const own = find("version").value || defaultVersion;
  setOptions(find("other"), versions.filter((name) => name !== own).map((name) => [name, name]));
  const isAlone = versions.length < 2;
  find("other").disabled = find("compare").disabled = isAlone;
  find("versions-hint").hidden = !isAlone;
}

// Fills a list with options; keeps the selection if it is among them, else selects the first.
function setOptions(select, options) {
  select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
  if (options.some(([value]) => value === select.dataset.selected)) select.value = select.dataset.selected;
  else delete select.dataset.selected;
}

// Puts a file on the canvas, whose content stays if the file is too large or unreadable.
async function openFile(file) {
  if (!file) return;
  if (file.size > state.max_bytes) return view.showProblem(messages.formatSizeError(file, state.max_bytes));
  try {
    if (!(await canvas.showFile(file))) return;
  } catch {
    return view.showProblem(messages.formatFileError(file));
  }
  await handleChange();
}

async function openTransfer(transfer, problem) {
  const file = [...transfer.files].find((candidate) => candidate.type.startsWith("image/")) ?? transfer.files[0];
  if (file) await openFile(file);
  else view.showProblem(problem);
}

function addListeners() {
  find("clear").addEventListener("click", () => { canvas.clear(); handleChange(); });
  find("undo").addEventListener("click", () => { if (canvas.undo()) handleChange(); });
  find("predict").addEventListener("click", () => predict());
  find("number").addEventListener("change", handleChange);
  find("compare").addEventListener("click", compareVersions);
  for (const id of ["version", "other"]) {
    find(id).addEventListener("change", (event) => { event.target.dataset.selected = event.target.value; });
  }
  find("version").addEventListener("change", () => {
    updateVersions();
    if (!canvas.isBlank) predict();
  });
  for (const id of ["file", "camera"]) {
    find(id).addEventListener("change", async (event) => {
      await openFile(event.target.files[0]);
      event.target.value = ""; // the same file may be chosen again
    });
  }
  for (const button of document.querySelectorAll("[data-example]")) {
    button.addEventListener("click", () =>
      runRequest(async (signal) => {
        const file = await service.getExample(button.dataset.example, signal);
        find("number").checked ||= "number" in button.dataset;
        await openFile(file);
      }));
  }
  document.addEventListener("paste", (event) => {
    event.preventDefault();
    openTransfer(event.clipboardData, "Nothing pasted: there is no image in the clipboard.");
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  document.addEventListener("dragleave", () => document.body.classList.remove("dropping"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    openTransfer(event.dataTransfer, "Nothing dropped: that was not a file; save the image first.");
  });
  window.addEventListener("focus", async () => { if (!isWaiting && !(await updateState())) waitUntilReady(); });
}

view.makeBars(explainDigit);
addListeners();
waitUntilReady();
