// Which queries become findings: mimo_runtime/results/findings.py, without a draft of the text decoder.
import { lies } from "./compose.js";
import { isRelative } from "./intents.js";
import { facts } from "./tables.js";

/** The prediction in which structures of a question about a relation are present from a lower presence on. */
export function presumeNamed(plan, prediction) {
  if (plan.refusal !== null || !isRelative(plan.intent)) return prediction;
  const queries = plan.named.map(([, query]) => query).filter(Boolean);
  return prediction.withThreshold(queries, facts.answers.relation_presence);
}

/** The findings' phrases and queries, as [phrase, query]. */
export function chooseQueries(plan, prediction) {
  const { intent, named } = plan;
  if (plan.refusal === null && intent.kind === "open") return visible(prediction);
  if (plan.refusal !== null || !isRelative(intent)) return named;
  const related = named.filter(([, query]) => query);
  const referred = named.filter(([, query]) => !query);
  const absent = related.find(([, query]) => prediction.mask(query) === null);
  if (absent) return [...referred, absent];
  return [...referred, ...(intent.kind === "neighbours" ? neighbours(plan, prediction) : []), ...related];
}

/** The entities that are visible, most probable first. */
function visible(prediction) {
  const queries = [...prediction.entities().values()].sort((a, b) => prediction.presence[b] - prediction.presence[a]);
  return queries.map((query) => [facts.vocabulary.entities[query - 1], query]);
}

/** The present entities that lie so relative to one of the other structures, in the order of their queries. */
function neighbours(plan, prediction) {
  // A reference beside a name is not what the question is about.
  const about = plan.named.filter(([, query]) => query || !plan.intent.others.length);
  const others = about.map(([, query]) => placeOf(prediction, query));
  return [...prediction.entities()].filter(([, query]) => {
    const place = placeOf(prediction, query);
    if (!place.mask || others.some((other) => other.query === query)) return false;
    if (others.some((other) => other.mask && overlap(place.mask, other.mask))) return false;
    return others.some((other) => other.mask && lies(place, plan.intent.relation, other, prediction));
  });
}

const placeOf = (prediction, query) => ({ query, mask: prediction.mask(query), centre: prediction.centre(query) });

/** Whether two masks share at least half of their union. */
function overlap(a, b) {
  let [both, any] = [0, 0];
  for (let i = 0; i < a.length; i += 1) {
    both += a[i] & b[i];
    any += a[i] | b[i];
  }
  return 2 * both >= any;
}
