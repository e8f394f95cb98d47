// The page: what is drawn, dropped, pasted or photographed is read at once, explained, and compared when asked.

import * as answer from "/draw/answer.js";
import * as service from "/draw/service.js";
import { Sheet } from "/draw/sheet.js";
import * as words from "/draw/words.js";

const ASK_AGAIN = 1000; // ms, while the service is not ready
const START = "Draw a digit from 0 to 9.";

const find = (id) => document.getElementById(id);
const sheet = new Sheet(find("sheet"), changed, answer.say);
let listed = { default: null, versions: [], max_bytes: Infinity };
let shown = null; // the answer to what is on the sheet
let target = null; // the digit to be explained, if it is not the one that was read
let asking = new AbortController(); // of what is asked now
let isWaiting = false; // for the service to be ready

async function changed() {
  target = null;
  if (sheet.isBlank) {
    asking.abort();
    shown = null;
    answer.showProblem("");
    answer.showNothing(START);
  } else {
    await read();
  }
}

// Asks about what is on the sheet. What was asked before is of no interest any more.
async function read(notice = "") {
  await attempt(async (signal) => {
    begin();
    const picture = await sheet.picture();
    const version = find("version").value;
    shown = await service.predict(picture, version, signal);
    answer.showAnswer(shown);
    answer.showProblem(notice);
    if (version === "" && shown.model_version !== listed.default && !(await list())) return wait();
    await why(picture, signal);
  });
}

// What is shown is not of what is asked about now.
function begin() {
  shown = null;
  answer.showOld(true);
}

// The answer stays where it cannot be explained.
async function why(picture, signal) {
  try {
    const told = await service.explain(picture, target, shown.model_version, signal);
    answer.showExplanation(told, shown.digit);
  } catch (error) {
    if (!(error instanceof service.Refusal)) throw error;
    answer.forget();
    answer.showProblem(words.unexplained(error));
  }
}

async function compare() {
  await attempt(async (signal) => {
    begin();
    const picture = await sheet.picture();
    const names = [find("version").value, find("other").value];
    const [one, other] = await Promise.all(names.map((version) => service.predict(picture, version, signal)));
    shown = one;
    answer.showAnswer(one);
    answer.showCompared(one, other);
    await why(picture, signal);
  });
}

async function explain(digit) {
  target = digit;
  answer.press(digit);
  if (shown) await attempt(async (signal) => why(await sheet.picture(), signal));
  else await read(); // its answer is still under way
}

// Does what is asked for, in the place of what was under way; tells what went wrong.
async function attempt(what) {
  asking.abort();
  asking = new AbortController();
  const { signal } = asking;
  try {
    await what(signal);
  } catch (error) {
    if (error.name !== "AbortError" && !signal.aborted) await tell(error, signal);
  }
}

async function tell(error, signal) {
  if (!(error instanceof service.Refusal)) throw error;
  if (error.type === "ModelVersionNotFoundException") return gone(error, signal);
  if (!error.isNotReady) return refuse(words.problem(error));
  answer.showProblem(words.problem(error));
  await pause();
  if (!signal.aborted) await wait();
}

function refuse(problem) {
  shown = null;
  answer.showNothing("Nothing was read.");
  answer.showProblem(problem);
}

// A version that was chosen is not there any more: the default takes its place.
async function gone(error, signal) {
  const chosen = new Set([find("version").value, find("other").value].filter(Boolean));
  if (!(await list())) return wait();
  if (signal.aborted) return;
  const missing = [...chosen].filter((name) => !listed.versions.includes(name));
  if (missing.length === 0) return refuse(words.problem(error));
  await read(words.gone(missing));
}

// Until the service answers; then asks about what is on the sheet, unless that has been answered since.
async function wait() {
  answer.showOld(true);
  if (isWaiting) return;
  isWaiting = true;
  while (!(await list())) await pause();
  isWaiting = false;
  answer.showOld(false);
  if (sheet.isBlank) answer.showProblem("");
  else if (shown === null) await read();
}

function pause() {
  return new Promise((resolve) => setTimeout(resolve, ASK_AGAIN));
}

// Learns whether the service is ready, and its versions; false if it is not.
async function list() {
  const state = await service.state();
  find("state").textContent = state.problem ? `Not ready: ${state.problem}. Waiting…` : "Ready.";
  if (state.problem) return false;
  listed = state;
  offer();
  return true;
}

// Fills the choices of versions, the second with others than the first stands for; tells what was chosen and is gone.
function offer() {
  const { default: current, versions } = listed;
  const chosen = ["version", "other"].map((id) => find(id).dataset.chosen);
  const missing = chosen.filter((name) => name && !versions.includes(name));
  if (missing.length > 0) answer.showProblem(words.gone(missing));
  choose(find("version"), [["", `default (${current})`], ...versions.map((name) => [name, name])]);
  const own = find("version").value || current;
  choose(find("other"), versions.filter((name) => name !== own).map((name) => [name, name]));
  const isAlone = versions.length < 2;
  find("other").disabled = find("compare").disabled = isAlone;
  find("versions-hint").hidden = !isAlone;
}

// Fills a list of choices; what a person has chosen stays so if it is still there, else it is the first.
function choose(select, choices) {
  select.replaceChildren(...choices.map(([value, text]) => new Option(text, value)));
  if (choices.some(([value]) => value === select.dataset.chosen)) select.value = select.dataset.chosen;
  else delete select.dataset.chosen;
}

// What is on the sheet stays where the file is none to be sent.
async function take(file) {
  if (!file) return;
  if (file.size > listed.max_bytes) return answer.showProblem(words.tooLarge(file, listed.max_bytes));
  try {
    if (!(await sheet.show(file))) return;
  } catch {
    return answer.showProblem(words.unreadable(file));
  }
  await changed();
}

async function takeFrom(transfer, missing) {
  const file = [...transfer.files].find((each) => each.type.startsWith("image/")) ?? transfer.files[0];
  if (file) await take(file);
  else answer.showProblem(missing);
}

function listen() {
  find("clear").addEventListener("click", () => { sheet.clear(); changed(); });
  find("undo").addEventListener("click", () => { if (sheet.undo()) changed(); });
  find("again").addEventListener("click", () => read());
  find("compare").addEventListener("click", compare);
  for (const id of ["version", "other"]) {
    find(id).addEventListener("change", (event) => { event.target.dataset.chosen = event.target.value; });
  }
  find("version").addEventListener("change", () => {
    offer();
    if (!sheet.isBlank) read();
  });
  for (const id of ["file", "camera"]) {
    find(id).addEventListener("change", async (event) => {
      await take(event.target.files[0]);
      event.target.value = ""; // the same file may be chosen again
    });
  }
  for (const button of document.querySelectorAll("[data-example]")) {
    button.addEventListener("click", () =>
      attempt(async (signal) => take(await service.example(button.dataset.example, signal))));
  }
  document.addEventListener("paste", (event) => {
    event.preventDefault();
    takeFrom(event.clipboardData, "Nothing pasted: there is no picture in the clipboard.");
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  document.addEventListener("dragleave", () => document.body.classList.remove("dropping"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    takeFrom(event.dataTransfer, "Nothing dropped: what was dropped is no file; save the picture first.");
  });
  window.addEventListener("focus", async () => { if (!isWaiting && !(await list())) wait(); });
}

answer.makeBars(explain);
listen();
wait();
