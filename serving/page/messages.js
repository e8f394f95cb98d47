// Texts of the page.

const WARNINGS = {
  inverted: "Dark on light, as on paper: inverted for the model.",
  several_marks: "More than one shape: the prediction is for one of them, or for all together.",
  faint: "Faint: little contrast with the background.",
  touches_border: "Touches the border and may be cut off.",
  low_resolution: "Few pixels: the prediction is uncertain.",
  lines_removed: "A box or lines were removed.",
  unread_marks: "A part of the image belongs to no digit.",
};

export function formatWarning(name) {
  return WARNINGS[name] ?? name;
}

export function formatPercent(share) {
  return share > 0.9995 && share < 1 ? ">\u00a099.9%" : `${(100 * share).toFixed(1)}%`;
}

export function formatPrediction(prediction) {
  const accepted = prediction.accepted ? "accepted" : "rejected: it may not be a digit";
  const confidence = formatPercent(prediction.confidence);
  return `Predicted ${prediction.digit}, confidence ${confidence}, ${accepted}. Version ${prediction.model_version}.`;
}

export function formatNumber(number) {
  const accepted = number.accepted ? "accepted" : "rejected: it may be misread";
  return `Read ${number.number}, confidence ${formatPercent(number.confidence)}, ${accepted}. Version ${number.model_version}.`;
}

export function formatDigit({ digit, confidence, accepted }) {
  return `${digit}: confidence ${formatPercent(confidence)}, ${accepted ? "accepted" : "rejected"}`;
}

export function formatError(error) {
  if (error.status === 422) return `Not read: ${error.message}.`;
  if (error.type === "InvalidImage") return `Invalid image: ${error.message}.`;
  return `${error.message}${error.status ? ` (${error.status} ${error.type})` : ""}.`;
}

export function formatExplanationError(error) {
  return `Not explained: ${formatError(error)}`;
}

export function formatMissingVersions(versions) {
  return `No longer registered: ${versions.join(", ")}.`;
}

export function formatSizeError(file, limit) {
  return `Not sent: the image has ${formatMebibytes(file.size)} MiB; the limit is ${formatMebibytes(limit)}.`;
}

export function formatFileError(file) {
  return `Not sent: ${file.name ?? "the image"} cannot be read; does the file still exist?`;
}

// Attributions are differences of log-probabilities.
export function formatExplanation(explanation, digit) {
  const values = explanation.attribution.flat();
  const total = (sign) => values.reduce((sum, value) => sum + Math.max(sign * value, 0), 0).toFixed(1);
  const question = explanation.target === digit ? "Why" : "Why not";
  return `${question} ${explanation.target}: evidence for it in red (log-probability +${total(1)}), against it in blue (−${total(-1)}).`;
}

export function formatComparison(one, other) {
  const difference = Math.max(...one.probabilities.map((share, digit) => Math.abs(share - other.probabilities[digit])));
  const same = one.digit === other.digit ? "Both predict the same digit" : "They predict different digits";
  return `${same}; probabilities differ by at most ${formatPercent(difference)}.`;
}

function formatMebibytes(bytes) {
  return (Math.ceil((10 * bytes) / 2 ** 20) / 10).toFixed(1);
}
