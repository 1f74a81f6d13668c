// Presence and predicted IoU of every mask query, and masks on demand: mimo_runtime/postprocessing/mask_prediction.py.
import { removeSmallParts } from "../parts.js";
import { MaskLogits } from "./contours.js";
import { sigmoid } from "./numbers.js";

const logitOf = (threshold) => Math.log(threshold / (1 - threshold));

/** What the mask decoder predicts for one request; outputs are tensors {data, dims}, batch 1. */
export class Prediction {
  constructor({ masks, presence, iou }, letterbox, settings, pointsAtTarget = false) {
    this.letterbox = letterbox;
    this.settings = settings;
    this.pointsAtTarget = pointsAtTarget;
    this.side = masks.dims[3];
    this.grids = masks.data;
    this.presence = Float64Array.from(presence.data, (logit) => sigmoid(logit / settings.thresholds.presence_temperature));
    this.iou = Float32Array.from(iou.data);
    /** Queries whose mask comes from a crop pass, and those of entities that have what their name alone gives. */
    this.refined = new Set();
    this.byName = new Set();
    this.masks = new Map();
    this.thresholds = new Map();
    this.sources = new Map();
  }

  get width() {
    return this.letterbox.width;
  }

  get height() {
    return this.letterbox.height;
  }

  with(changes) {
    return Object.assign(Object.create(Prediction.prototype), this, { masks: new Map(this.masks) }, changes);
  }

  /** With another mask, predicted IoU and logits of query 0. */
  withTarget(mask, iou, logits, isRefined) {
    const copy = this.with({ sources: new Map(this.sources).set(0, logits), refined: new Set(this.refined), iou: Float32Array.from(this.iou) });
    copy.masks.set(0, mask);
    copy.iou[0] = iou;
    if (isRefined) copy.refined.add(0);
    else copy.refined.delete(0);
    return copy;
  }

  /** The queries of entities have what requests by their names alone give: a Map from query to the prediction of its request. */
  withNames(named) {
    if (!named.size) return this;
    const copy = this.with({
      presence: Float64Array.from(this.presence), iou: Float32Array.from(this.iou), grids: Float32Array.from(this.grids),
      sources: new Map(this.sources), refined: new Set(this.refined), byName: new Set([...this.byName, ...named.keys()]),
    });
    for (const [query, own] of named) {
      [copy.presence[query], copy.iou[query]] = [own.presence[0], own.iou[0]];
      copy.grids.set(own.gridOf(0), query * this.side ** 2);
      copy.masks.set(query, own.mask(0));
      if (own.sources.has(0)) copy.sources.set(query, own.sources.get(0));
      else copy.sources.delete(query);
      if (own.refined.has(0)) copy.refined.add(query);
      else copy.refined.delete(query);
    }
    return copy;
  }

  /** These queries are present from a presence of `threshold` on, if the model's is higher. */
  withThreshold(queries, threshold) {
    const copy = this.with({ thresholds: new Map(this.thresholds) });
    for (const query of queries) {
      copy.thresholds.set(query, Math.min(threshold, this.settings.thresholds.presence_threshold));
      if (copy.masks.get(query) === null) copy.masks.delete(query);
    }
    return copy;
  }

  /** The structures of these queries are absent for sure. */
  without(queries) {
    const copy = this.with({ presence: Float64Array.from(this.presence) });
    for (const query of queries) {
      copy.masks.set(query, null);
      if (query < copy.presence.length) copy.presence[query] = 0;
    }
    return copy;
  }

  gridOf(query) {
    return this.grids.subarray(query * this.side ** 2, (query + 1) * this.side ** 2);
  }

  /** The clean mask of a query; null if it is not present, has no pixel, or does not exist. */
  mask(query) {
    if (!this.masks.has(query)) {
      const threshold = this.thresholds.get(query) ?? this.settings.thresholds.presence_threshold;
      const isPresent = query < this.presence.length && this.presence[query] >= threshold;
      this.masks.set(query, isPresent ? this.fullImageMask(query) : null);
    }
    return this.masks.get(query);
  }

  fullImageMask(query) {
    const { letterbox, side } = this;
    return this.clean(letterbox.maskOf(this.gridOf(query), side, logitOf(this.maskThreshold(query))), letterbox);
  }

  /** A mask in the geometry of a letterbox without small parts; null if it is empty. */
  clean(mask, letterbox) {
    const clean = removeSmallParts(mask, letterbox.width, letterbox.height, letterbox.cellArea(this.side), this.settings.parts);
    return clean.includes(1) ? clean : null;
  }

  /** Logits of the pixels of a letterbox as a clean mask; null if it is empty. */
  cleanMask(logits, letterbox) {
    const least = Math.fround(logitOf(this.settings.thresholds.mask_threshold));
    return this.clean(Uint8Array.from(logits, (logit) => (logit >= least ? 1 : 0)), letterbox);
  }

  /** The probability from which on a pixel belongs to the mask of a query; lower where its presence is presumed. */
  maskThreshold(query) {
    const threshold = this.settings.thresholds.mask_threshold;
    if (!this.thresholds.has(query)) return threshold;
    let most = -Infinity;
    for (const logit of this.letterbox.logitsOf(this.gridOf(query), this.side)) most = Math.max(most, logit);
    const largest = sigmoid(most);
    return largest < threshold ? largest / 2 : threshold;
  }

  /** The position of a query's structure, [x, y] in pixels; null if the query does not exist. */
  centre(query) {
    if (query >= this.presence.length) return null;
    const mask = query === 0 && this.pointsAtTarget ? this.mask(0) : null;
    return mask ? centroidOf(mask, this.width) : softCentroid(this.gridOf(query), this.side, this.letterbox);
  }

  /** Query by name of the entities that reach `entity_threshold`. */
  entities() {
    const { entities, thresholds } = this.settings;
    return new Map(this.entityQueries(thresholds.entity_threshold).map((query) => [entities[query - 1], query]));
  }

  /** The queries of entities with at least this presence. */
  entityQueries(threshold) {
    return this.settings.entities.map((_, i) => i + 1).filter((query) => this.presence[query] >= threshold);
  }

  /** Whether the mask of a query can cover a pixel, judged by the cells around it. */
  mayCover(query, x, y) {
    const [fx, fy] = this.letterbox.factors;
    const [row, column] = [Math.trunc(y * fy * this.side), Math.trunc(x * fx * this.side)];
    const grid = this.gridOf(query);
    let most = -Infinity;
    for (let r = Math.max(0, row - 1); r <= Math.min(this.side - 1, row + 1); r += 1) {
      for (let c = Math.max(0, column - 1); c <= Math.min(this.side - 1, column + 1); c += 1) most = Math.max(most, grid[r * this.side + c]);
    }
    return sigmoid(most) >= this.settings.thresholds.mask_threshold;
  }

  /** The logits that the mask of a query comes from. */
  maskLogits(query) {
    return this.sources.get(query) ?? this.fullImageLogits(query);
  }

  /** The logits of a query in the full-image pass; where `crop` lies those of a crop pass. */
  fullImageLogits(query, crop = null) {
    return new MaskLogits(this.gridOf(query), this.side, this.letterbox, logitOf(this.maskThreshold(query)), crop);
  }
}

function centroidOf(mask, width) {
  let [x, y, count] = [0, 0, 0];
  for (let i = 0; i < mask.length; i += 1) {
    if (!mask[i]) continue;
    x += (i % width) + 0.5;
    y += Math.floor(i / width) + 0.5;
    count += 1;
  }
  return [x / count, y / count];
}

/** The mean position of the cells, weighted with squared probability: mimo_runtime/postprocessing/masks.py. */
function softCentroid(grid, side, letterbox) {
  const centres = Array.from({ length: side }, (_, i) => (i + 0.5) / side);
  const [columns, rows] = letterbox.extent.map((extent) => centres.filter((centre) => centre < Math.max(Math.fround(extent), centres[0] * 1.5)));
  let [sum, x, y] = [0, 0, 0];
  rows.forEach((row, r) => {
    columns.forEach((column, c) => {
      const weight = sigmoid(grid[r * side + c]) ** 2;
      sum += weight;
      x += weight * column;
      y += weight * row;
    });
  });
  const [fx, fy] = letterbox.factors;
  return [Math.min(x / sum / fx, letterbox.width), Math.min(y / sum / fy, letterbox.height)];
}
