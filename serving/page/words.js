// What the service's words mean to a person.

const WARNINGS = {
  inverted: "Dark on light, as on paper: inverted for the model.",
  several_marks: "There is more than one mark; one of them was read, or all as one.",
  faint: "Faint: little contrast to the paper.",
  touches_border: "It touches the border and may be cut off.",
  low_resolution: "Few pixels: hard to be sure.",
};

export function warning(name) {
  return WARNINGS[name] ?? name;
}

export function percent(share) {
  return share > 0.9995 && share < 1 ? ">\u00a099.9%" : `${(100 * share).toFixed(1)}%`;
}

export function verdict(answer) {
  const accepted = answer.accepted ? "accepted" : "not accepted: it may be no digit";
  return `Read as ${answer.digit}, confidence ${percent(answer.confidence)}, ${accepted}. Version ${answer.model_version}.`;
}

export function problem(refusal) {
  if (refusal.status === 422) return `Blank: ${refusal.message}.`;
  if (refusal.type === "InvalidImage") return `Not read: ${refusal.message}.`;
  return `${refusal.message}${refusal.status ? ` (${refusal.status} ${refusal.type})` : ""}.`;
}

export function unexplained(refusal) {
  return `Not explained: ${problem(refusal)}`;
}

export function gone(versions) {
  return `Not registered any more: ${versions.join(", ")}.`;
}

export function tooLarge(file, most) {
  return `Not sent: the picture has ${mebibytes(file.size)} MiB; at most ${mebibytes(most)} are read.`;
}

export function unreadable(file) {
  return `Not sent: ${file.name ?? "the picture"} cannot be read; is it a file, and still there?`;
}

export function explained(told, digit) {
  const values = told.attribution.flat();
  const total = (sign) => values.reduce((sum, value) => sum + Math.max(sign * value, 0), 0).toFixed(1);
  const question = told.target === digit ? "Why" : "Why not";
  return `${question} ${told.target}: red speaks for it (${total(1)} nats), blue against it (${total(-1)}).`;
}

export function compared(one, other) {
  const apart = Math.max(...one.probabilities.map((share, digit) => Math.abs(share - other.probabilities[digit])));
  const same = one.digit === other.digit ? "Both read the same digit" : "They read different digits";
  return `${same}; probabilities differ by ${percent(apart)} at most.`;
}

function mebibytes(bytes) {
  return (Math.ceil((10 * bytes) / 2 ** 20) / 10).toFixed(1);
}
