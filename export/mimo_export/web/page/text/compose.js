// The final sentence, from what the masks show: mimo_runtime/text/compose.py.
// What is known of a structure: {name, query, mask, centre, certain, size, excluded} with a mask uint8 [H, W] or null.
import { cleanName, listed, pluralise, writePhrase } from "./grammar.js";
import { takesAre } from "./names.js";
import { isNextTo, locationWord, observePhrase, relationOfCentres } from "./observe.js";
import { facts } from "./tables.js";

/** The sentence about structures that the request names or points at. */
export function composeNamed(masks, head, frame) {
  const present = certainFirst(masks).filter(({ mask }) => mask);
  const phrases = present.map((named) => observed(named, frame));
  const denied = denials(masks.filter(({ mask }) => !mask));
  const said = phrases.length ? [listed(phrases.map(written)), ...denied] : denied;
  const sizes = present.flatMap(({ size }, i) => (size ? [sized(phrases[i], size)] : []));
  return [`${head}: ${said[0]}.`, ...said.slice(1).map((denial) => `N${denial.slice(1)}.`), ...sizes].join(" ");
}

/** What is said of structures without a mask: those that are excluded or not calibrated, and those that may be there. */
function denials(masks) {
  const namesOf = (isOpen) => masks.filter(({ excluded }) => (excluded === false) === isOpen).map(({ name }) => cleanName(name));
  return [[namesOf(false), "visible"], [namesOf(true), "found, but cannot be excluded"]]
    .filter(([names]) => names.length)
    .map(([names, end]) => `no ${listed(names, "or")} ${takesAre(names.at(-1)) ? "are" : "is"} ${end}`);
}

/** The sentence about a size. That of several is measured on all of them together. */
function sized({ name: phrase, count, uncertain }, size) {
  let [name, verb] = [cleanName(phrase), takesAre(phrase) ? "have" : "has"];
  const plural = count && count !== "one" && !isSingle(name) ? pluralise(name) : null;
  if (plural) [name, verb] = [plural, "together have"];
  return `The ${uncertain ? "possible " : ""}${name} ${verb} ${size}.`;
}

const isSingle = (name) => facts.grammar.single.includes(name.toLowerCase());

/** The sentence about what a reference points at, behind the answer about other structures. */
export function composeReference(named, frame) {
  return `The reference shows ${named.mask ? written(observed(named, frame)) : `no ${named.name}`}.`;
}

/** The sentence that lists what is visible. */
export function composeOpen(masks, head) {
  const phrases = certainFirst(masks).filter(({ mask }) => mask).map(bare);
  return `${head}: ${phrases.length ? listed(phrases) : facts.answers.nothing_known}.`;
}

/** How structures lie relative to each of others; or that one of them is not visible. */
export function composeRelations(masks, others, head) {
  const absent = [...masks, ...others].find(({ mask, centre }) => !mask || !centre);
  if (absent) return describeAbsent(head, absent);
  return relative(head, others.flatMap((other) => byRelation(masks, other)));
}

/** Which structures lie so relative to each of others. */
export function composeNeighbours(masks, relation, others, head, frame) {
  const absent = others.find(({ mask }) => !mask);
  if (absent) return describeAbsent(head, absent);
  const clauses = others.flatMap((other) => {
    const own = masks.filter((mask) => lies(mask, relation, other, frame));
    return relation === facts.frames.next_to && own.length ? byRelation(own, other) : [related(own, relation, other)];
  });
  return relative(head, clauses);
}

const describeAbsent = (head, named) => `${head}: ${denials([named])[0]}.`;

/** Whether a structure lies so relative to another one, both present. */
export function lies(one, relation, other, { width, height }) {
  if (relation !== facts.frames.next_to) return relationOfCentres(one.centre, other.centre) === relation;
  return isNextTo(one.mask, other.mask, width, height);
}

/** A clause for every relation that some structures have to another one. */
function byRelation(masks, other) {
  const groups = new Map();
  for (const one of masks) {
    const relation = relationOfCentres(one.centre, other.centre);
    groups.set(relation, [...(groups.get(relation) ?? []), one]);
  }
  return [...groups].map(([relation, group]) => related(group, relation, other));
}

function related(masks, relation, other) {
  const reference = bare(other).replace("possibly ", "possible ");
  return `${masks.length ? listed(certainFirst(masks).map(bare)) : facts.answers.no_neighbour} ${relation} the ${reference}`;
}

const relative = (head, clauses) => `${head}: ${clauses.join("; ")} in the image.`;

/** Uncertain structures last: in "possibly A and B", B would read as uncertain, too. */
const certainFirst = (masks) => [...masks].sort((one, other) => !one.certain - !other.certain);

const bare = ({ name, query, certain }) => writePhrase({ name, query, uncertain: !certain });

const written = (phrase) => writePhrase(phrase, true, isSingle(cleanName(phrase.name)));

/** The phrase of a mask with number, size, shape and location. */
function observed({ name, query, mask, centre, certain }, { width, height }) {
  const words = observePhrase(mask, width, height);
  const location = centre ? locationWord(centre[0] / width, centre[1] / height) : words.location;
  return { ...words, name, query, location, uncertain: !certain };
}
