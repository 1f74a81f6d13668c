// How a text of the list is asked, and what is refused: mimo_runtime/results/plan.py.
import { excludedEntities } from "./numeric/modalities.js";

/** Token ids of what the graphs read. */
export function tokensOf({ texts }, text) {
  return texts.flatMap(({ alone, pointed }) => [alone, pointed]).find((reading) => reading?.text === text).tokens;
}

/** {prompt, named, refusal, excluded, hasAnswer, hasReferences} of a request; `named` is null where visible entities are asked for. */
export function planRequest({ texts, referred, numeric }, { text, boxes, points, mask }, modality, domain, anyDomain) {
  const isPointed = Boolean(boxes.length || mask || points.some(([, , label = 1]) => label));
  const isRefused = domain?.verdict === "out" && !anyDomain;
  const known = texts.find((one) => one.text === (isRefused && isPointed ? "" : text));
  const { phrase, ...reading } = (isPointed ? known.pointed : known.alone) ?? known.pointed;
  const absent = excludedEntities(modality, numeric);
  const excluded = absent.map((entity) => numeric.entities.indexOf(entity) + 1);
  const isAbsent = absent.includes(phrase);
  return {
    prompt: { text: reading.text, isNamed: reading.is_named, target: reading.target, boxes, points, mask },
    named: phrase === null ? null : [[isAbsent && isPointed ? referred : phrase, 0]],
    excluded: isAbsent && !isPointed ? [0, ...excluded] : excluded,
    refusal: isRefused ? { reason: "out of domain", subject: "", works: isPointed ? [] : ["a box, a point or a mask"] } : null,
    hasAnswer: !isRefused || isPointed,
    hasReferences: Boolean(boxes.length || points.length || mask),
  };
}
