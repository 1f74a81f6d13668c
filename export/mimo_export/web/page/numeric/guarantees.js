// The contours of a finding, and whether a structure that is not found is excluded: mimo_runtime/results/guarantees.py.

const NONE = { contours: null, coverage: null, calibrated: null, excluded: null };

/**
 * The guarantees of one finding; `prompt.target` is what the text of the request names, or null. `score`: null without a mask.
 * `isByName`: the query of an entity has what a request by its name alone gives.
 */
export function guaranteesOf(settings, prompt, query, presence, score, isByName = false) {
  const { entities, contours, coverage, presence_calibration: calibration, contour_rules: rules } = settings;
  const target = prompt.target ?? "";
  const named = entities.find((entity) => entity.toLowerCase() === target.toLowerCase()) ?? target;
  const name = query ? (entities[query - 1] ?? null) : named;
  const kind = query === 0 ? promptKind(prompt) : "name";
  if (score !== null) {
    if (!contours.length || name === null) return NONE;
    const entry = contoursFor(contours, name, kind, score);
    if (!entry || entry.outer > rules.widest_outer) return { ...NONE, calibrated: Boolean(entry) };
    return { ...NONE, contours: entry, coverage, calibrated: true };
  }
  const entry = isByName || (query === 0 && target && kind === "name") ? absentBelow(calibration, name ?? "") : null;
  return entry ? { ...NONE, excluded: presence < entry.absent_below } : NONE;
}

/** The entry for a structure, a kind of prompt and the score of a finding: mimo_runtime/model/calibrated.py; null without. */
function contoursFor(entries, name, kind, score) {
  const own = entries.filter((entry) => entry.name === name && entry.prompt === kind && entry.min_score <= score);
  return own.reduce((best, entry) => (best && best.min_score >= entry.min_score ? best : entry), null);
}

/** The entry of a name, or else that for all structures; null if there is neither. */
function absentBelow(entries, name) {
  const last = (wanted) => entries.filter((entry) => entry.name === wanted).at(-1);
  return last(name) ?? last("") ?? null;
}

/** The strongest reference of a request: "mask", "box", "point", or else "name". */
export function promptKind({ mask, boxes, points }) {
  if (mask) return "mask";
  if (boxes.length) return "box";
  return points.some(([, , label = 1]) => label === 1) ? "point" : "name";
}
