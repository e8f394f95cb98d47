// Requests to the server of this page, which passes them on to the service.

const JSON_TYPE = "application/json";

// An error of the service: HTTP status, type, message.
export class ServiceError extends Error {
  constructor(status, type, message) {
    super(message);
    Object.assign(this, { status, type });
  }

  // Whether a retry may succeed: no worker, a full queue, a server that is starting, draining or unreachable.
  get isTemporary() {
    return [0, 429, 503].includes(this.status);
  }
}

export function predict(image, version, signal) {
  return fetchJson(`/draw/predictions?${makeQuery({ version })}`, { method: "POST", body: image, signal });
}

export function readNumber(image, version, signal) {
  return fetchJson(`/draw/numbers?${makeQuery({ version })}`, { method: "POST", body: image, signal });
}

export function explain(image, target, version, signal) {
  return fetchJson(`/draw/explanations?${makeQuery({ target, version })}`, { method: "POST", body: image, signal });
}

// The versions, the default and the size limit in bytes; or `problem` if the service is not ready.
export async function getState() {
  try {
    return await fetchJson("/draw/state");
  } catch (error) {
    return { problem: error.message };
  }
}

export async function getExample(name, signal) {
  const response = await fetchResponse(`/draw/examples/${name}`, { signal });
  if (!response.ok) throw new ServiceError(response.status, response.statusText, `there is no example ${name}`);
  return rethrowUnreachable(response.blob());
}

async function fetchJson(path, options) {
  const response = await fetchResponse(path, options);
  if (!response.headers.get("Content-Type")?.startsWith(JSON_TYPE)) {
    throw new ServiceError(response.status, response.statusText, "unexpected response");
  }
  const body = await rethrowUnreachable(response.json());
  if ("code" in body) throw new ServiceError(body.code, body.type, body.message);
  return body;
}

function fetchResponse(path, options) {
  return rethrowUnreachable(fetch(path, options));
}

// Turns a broken connection into a ServiceError.
async function rethrowUnreachable(promise) {
  try {
    return await promise;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError(0, "Unreachable", "the server does not respond; `make serve` starts it");
  }
}

function makeQuery(fields) {
  return new URLSearchParams(Object.entries(fields).filter(([, value]) => value !== "" && value !== null));
}
