// The golden self-test: whether an answer of this browser is that of the bundle, as mimo_runtime/deploy/verify.py compares them.
import { decodeMask, dice } from "../masks.js";

const EXACT = ["phrase", "query", "present", "refined", "coverage", "calibrated", "calibration_cases", "excluded"];

/** What of an answer {findings, domain} differs from what a sample expects; "" if nothing does. */
export function differenceOf({ findings, domain }, expected, { tolerances, numeric }) {
  if (findings.length !== expected.findings.length) return `${findings.length} findings instead of ${expected.findings.length}`;
  for (const [index, wanted] of expected.findings.entries()) {
    const problem = differenceOfFinding(findings[index], wanted, tolerances, numeric.thresholds);
    if (problem) return `${problem} of ${wanted.phrase}`;
  }
  return differenceOfDomain(domain, expected.domain, tolerances.score, numeric.domain);
}

function differenceOfFinding(finding, wanted, tolerances, thresholds) {
  const other = EXACT.find((name) => finding[name] !== wanted[name]);
  if (other) return `another ${other}`;
  for (const name of ["mask", "inner", "outer"]) {
    if ((finding[name] === null) !== (wanted[name] === null)) return `another ${name}`;
    const agreement = wanted[name] ? dice(decodeMask(finding[name]), decodeMask(wanted[name])) : 1;
    if (!(agreement >= tolerances.mask_dice)) return `a Dice of ${agreement.toFixed(3)} of the ${name}`;
  }
  const difference = Math.abs(finding.score - wanted.score);
  if (!(difference <= tolerances.score)) return `a difference of ${difference.toFixed(3)} of the score`;
  const isNear = Math.abs(wanted.score - thresholds.abstain_threshold) <= tolerances.score;
  return wanted.present && finding.confident !== wanted.confident && !isNear ? "another confidence" : "";
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
