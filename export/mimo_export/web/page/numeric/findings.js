// One query as a finding, as JSON: mimo_runtime/results/findings.py and answer.py.
import { encodeMask } from "../masks.js";
import { boxOf } from "../parts.js";
import { innerAndOuter } from "./contours.js";
import { guaranteesOf } from "./guarantees.js";
import { longestDiameter } from "./measure.js";
import { rounded } from "./numbers.js";

/**
 * A query with the name `phrase`. `prompt`: {boxes, points, mask, target}, see guarantees.js.
 * `spacing`: [row, column] in mm or null. `withDiameter`: a size is asked for. `contours`: inner and outer contour come, too.
 */
export function findingOf(prediction, phrase, query, prompt, { spacing = null, withDiameter = false, contours = false } = {}) {
  const { width, height, settings } = prediction;
  const mask = prediction.mask(query);
  const presence = prediction.presence[query];
  const iou = Math.min(1, Math.max(0, prediction.iou[query]));
  const score = presence * iou;
  const guarantees = guaranteesOf(settings, prompt, query, presence, mask ? score : null, prediction.byName.has(query));
  const area = mask ? mask.reduce((sum, value) => sum + value, 0) : 0;
  const runs = (pixels) => (pixels ? encodeMask(pixels, width, height) : null);
  const lines = contours && mask && guarantees.contours
    ? innerAndOuter(mask, width, height, guarantees.contours, prediction.maskLogits(query), settings.contour_rules)
    : { inner: null, outer: null };
  return {
    phrase, query, present: mask !== null, presence: rounded(presence, 6), iou: rounded(iou, 6), score: rounded(score, 6),
    confident: score >= settings.thresholds.abstain_threshold, refined: prediction.refined.has(query),
    box: mask && boxOf(mask, width, height), area_px: area, ...sizesOf(mask, width, height, area, spacing, withDiameter, settings.centre_bias),
    coverage: guarantees.coverage, calibrated: guarantees.calibrated, calibration_cases: guarantees.contours?.cases ?? null,
    excluded: guarantees.excluded, mask: runs(mask ?? new Uint8Array(width * height)), inner: runs(lines.inner), outer: runs(lines.outer),
  };
}

function sizesOf(mask, width, height, area, spacing, withDiameter, bias) {
  const diameter = (unit) => rounded(longestDiameter(mask, width, height, unit, bias), 3);
  return {
    area_mm2: mask && spacing ? rounded(area * spacing[0] * spacing[1], 3) : null,
    longest_diameter_mm: mask && spacing && withDiameter ? diameter(spacing) : null,
    longest_diameter_px: mask && withDiameter ? diameter([1, 1]) : null,
  };
}
