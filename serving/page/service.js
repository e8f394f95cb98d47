// Questions to the server of this page, which passes them on to the service.

const JSON_TYPE = "application/json";

// The service's refusal, as it says it: HTTP status, type, message.
export class Refusal extends Error {
  constructor(status, type, message) {
    super(message);
    Object.assign(this, { status, type });
  }

  // Whether another moment may do: no worker, a full queue, a server that starts, drains or is gone.
  get isNotReady() {
    return [0, 429, 503].includes(this.status);
  }
}

export function predict(picture, version, signal) {
  return ask(`/draw/predictions?${query({ version })}`, { method: "POST", body: picture, signal });
}

export function explain(picture, target, version, signal) {
  return ask(`/draw/explanations?${query({ target, version })}`, { method: "POST", body: picture, signal });
}

// Versions, the default among them, and the largest picture's bytes; or the problem that keeps it from answering.
export async function state() {
  try {
    return await ask("/draw/state");
  } catch (error) {
    return { problem: error.message };
  }
}

// An example's file.
export async function example(name, signal) {
  const response = await reach(`/draw/examples/${name}`, { signal });
  if (!response.ok) throw new Refusal(response.status, response.statusText, `there is no example ${name}`);
  return whole(response.blob());
}

async function ask(path, options) {
  const response = await reach(path, options);
  if (!response.headers.get("Content-Type")?.startsWith(JSON_TYPE)) {
    throw new Refusal(response.status, response.statusText, "the answer is not understood");
  }
  const told = await whole(response.json());
  if ("code" in told) throw new Refusal(told.code, told.type, told.message);
  return told;
}

function reach(path, options) {
  return whole(fetch(path, options));
}

// What arrives to its end.
async function whole(arriving) {
  try {
    return await arriving;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, "Unreachable", "the server does not answer; `make serve` starts it");
  }
}

function query(fields) {
  const given = Object.entries(fields).filter(([, value]) => value !== "" && value !== null);
  return new URLSearchParams(given);
}
