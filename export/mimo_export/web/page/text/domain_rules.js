// What follows from the domain of an image for the answer: mimo_runtime/results/domain_rules.py.

/** Warnings of an answer about an image with a check {verdict, score, modality, contradicts_stated}, or null. `modality`: stated. */
export function domainWarnings(check, modality) {
  if (check === null) return [];
  const warnings = [];
  if (check.contradicts_stated) {
    warnings.push(`the stated modality is ${modality}, but the nearest training images are of modality ${check.modality}`);
  }
  const score = `(score ${check.score.toFixed(2)}, limit 1)`;
  if (check.verdict === "out") warnings.push(`the image is unlike the images that this model was trained on ${score}`);
  else if (check.verdict === "borderline") warnings.push(`the image is at the edge of what this model was trained on ${score}`);
  return warnings;
}
