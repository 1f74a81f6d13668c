// The golden self-test: whether an answer of this browser is that of the bundle, as mimo_runtime/deploy/verify.py compares them.
import { decodeMask, dice } from "../masks.js";

const EXACT = ["phrase", "query", "present", "refined"];
/** What follows from the entry for a score, and from that for a presence: close to the limit of an entry, either side is right. */
const OF_SCORE = ["coverage", "calibrated", "calibration_cases"];
const OF_PRESENCE = ["excluded"];

/** What of an answer {findings, domain} differs from what a sample expects; "" if nothing does. */
export function differenceOf({ findings, domain }, expected, { tolerances, numeric }) {
  if (findings.length !== expected.findings.length) return `${findings.length} findings instead of ${expected.findings.length}`;
  for (const [index, wanted] of expected.findings.entries()) {
    const problem = differenceOfFinding(findings[index], wanted, tolerances, numeric);
    if (problem) return `${problem} of ${wanted.phrase}`;
  }
  return differenceOfDomain(domain, expected.domain, tolerances.score, numeric.domain);
}

function differenceOfFinding(finding, wanted, tolerances, { thresholds, contours, presence_calibration: calibration }) {
  const isNear = (value, limits) => limits.some((limit) => Math.abs(value - limit) <= tolerances.score);
  const hasScore = !isNear(wanted.score, contours.map((entry) => entry.min_score).filter(Boolean));
  const hasPresence = !isNear(wanted.presence, calibration.map((entry) => entry.absent_below));
  const exact = [...EXACT, ...(hasScore ? OF_SCORE : []), ...(hasPresence ? OF_PRESENCE : [])];
  const other = exact.find((name) => finding[name] !== wanted[name]);
  if (other) return `another ${other}`;
  for (const name of ["mask", ...(hasScore ? ["inner", "outer"] : [])]) {
    if ((finding[name] === null) !== (wanted[name] === null)) return `another ${name}`;
    const agreement = wanted[name] ? dice(decodeMask(finding[name]), decodeMask(wanted[name])) : 1;
    if (!(agreement >= tolerances.mask_dice)) return `a Dice of ${agreement.toFixed(3)} of the ${name}`;
  }
  const difference = Math.abs(finding.score - wanted.score);
  if (!(difference <= tolerances.score)) return `a difference of ${difference.toFixed(3)} of the score`;
  return wanted.present && finding.confident !== wanted.confident && !isNear(wanted.score, [thresholds.abstain_threshold]) ? "another confidence" : "";
}

/** Verdict and score of the domain check; a score at a limit may lie on either side of it. */
function differenceOfDomain(domain, wanted, tolerance, facts) {
  if ((domain === null) !== (wanted === null)) return "another domain check";
  if (wanted === null) return "";
  const difference = Math.abs(domain.score - wanted.score);
  if (!(difference <= tolerance * Math.max(1, wanted.score))) return `a difference of ${difference.toFixed(3)} of the domain score`;
  const isNear = facts.limits.some((limit) => Math.abs(wanted.score - limit / facts.limits[0]) <= tolerance);
  return domain.verdict !== wanted.verdict && !isNear ? "another verdict on the domain" : "";
}
