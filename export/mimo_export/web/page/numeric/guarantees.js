// The contours of a finding, and whether a structure that is not found is excluded: mimo_runtime/results/guarantees.py.

const NONE = { contours: null, coverage: null, calibrated: null, excluded: null };

/** The guarantees of one finding; `prompt.target` is what the text of the request names, or null. */
export function guaranteesOf(settings, prompt, query, presence, isPresent) {
  const { entities, contours, coverage, presence_calibration: calibration, contour_rules: rules } = settings;
  const { target } = prompt;
  const sameName = (entity) => Boolean(target) && entity.toLowerCase() === target.toLowerCase();
  const name = (query ? entities[query - 1] : entities.find(sameName)) ?? "";
  const kind = query === 0 ? promptKind(prompt) : "name";
  if (isPresent) {
    const entry = entryOf(contours.filter(({ prompt: of }) => of === kind), name);
    if (!entry || entry.outer > rules.widest_outer) return NONE;
    return { ...NONE, contours: entry, coverage, calibrated: entry.name !== "" || !(query || target) };
  }
  const entry = query === 0 && target && kind === "name" ? entryOf(calibration, name) : null;
  return entry ? { ...NONE, excluded: presence < entry.absent_below } : NONE;
}

/** The entry of a name, or else that for all structures; null if there is neither. */
function entryOf(entries, name) {
  const last = (wanted) => entries.filter((entry) => entry.name === wanted).at(-1);
  return last(name) ?? last("") ?? null;
}

/** The strongest reference of a request: "mask", "box", "point", or else "name". */
export function promptKind({ mask, boxes, points }) {
  if (mask) return "mask";
  if (boxes.length) return "box";
  return points.some(([, , label = 1]) => label === 1) ? "point" : "name";
}
