// Further passes of the mask decoder for the target of a request: mimo_runtime/refinement/refiner.py.
import { blend } from "./contours.js";
import { cropAroundTarget } from "./crops.js";
import { Candidate, hasSinglePoint, pixelOf, pointCrops, selectBestMask } from "./multiscale.js";

/**
 * The prediction with the refined mask and predicted IoU of query 0; the same object where nothing changes.
 * `prompt`: {text, isNamed, boxes, points, mask}, as the graphs read it; isNamed says whether the text names a target.
 * `segment(crop)`: outputs of the mask decoder for a crop {box, prompt, letterbox}, a promise.
 */
export async function refine(prediction, prompt, segment) {
  const rules = prediction.settings.refinement;
  const hasReferences = prompt.boxes.length || prompt.points.length || prompt.mask;
  if (rules.crop_scale <= 0 || !(hasReferences || prompt.isNamed)) return prediction;
  const full = Candidate.of(prediction.mask(0), prediction.width, prediction.height, prediction.iou[0]);
  return full ? new TargetRefinement(rules, prediction, prompt, segment, full).run() : prediction;
}

/** The refinement of one target; `full` is its mask of the full-image pass. */
class TargetRefinement {
  constructor(rules, prediction, prompt, segment, full) {
    Object.assign(this, { rules, prediction, prompt, segment, full });
  }

  async run() {
    const cropped = await this.cropPass();
    let best = cropped ?? this.full;
    if (this.isAmbiguous(best)) best = await this.select(cropped);
    if (best === this.full) return this.prediction;
    const mask = best.fullMask(this.prediction.height, this.prediction.width);
    return this.prediction.withTarget(mask, best.iou, this.prediction.fullImageLogits(best.query, best.logits), best.crop !== null);
  }

  async cropPass() {
    const crop = this.cropAround(this.prompt, this.full);
    const cropped = crop && (await this.segmentCrop(crop, this.rules.full_image_weight));
    return cropped && cropped.with({ iou: (cropped.iou + this.full.iou) / 2 });
  }

  /** Whether the point of the request may refer to another object. */
  isAmbiguous(best) {
    if (!hasSinglePoint(this.prompt)) return false;
    return Math.fround(best.iou) < this.rules.refine_below_iou || (this.prompt.isNamed && !this.isSingleObject(best));
  }

  /** The candidate that the point of an ambiguous request refers to. */
  async select(cropped) {
    const { height, width, letterbox } = this.prediction;
    const prompt = this.prompt.isNamed ? { ...this.prompt, text: "", isNamed: false } : this.prompt;
    let candidates = this.underPoint(cropped);
    const previews = [];
    for (const crop of pointCrops(prompt, height, width, letterbox.size, this.rules)) previews.push(await this.segmentCrop(crop));
    for (const preview of [...previews.filter(Boolean), ...candidates.filter(({ query }) => query)]) {
      const crop = this.cropAround(prompt, preview);
      const candidate = crop && (await this.segmentCrop(crop));
      if (candidate) candidates.push(candidate.with({ iou: (candidate.iou + preview.iou) / 2 }));
    }
    if (!candidates.length) candidates = [cropped ?? this.full];
    const namedPart = this.prompt.isNamed ? this.namedPart(this.full) : null;
    return candidates[selectBestMask(candidates, height, width, this.rules, namedPart)];
  }

  /** Candidates among the masks that exist already: full-image pass, crop pass, their parts, and entities. */
  underPoint(cropped) {
    const { prediction } = this;
    const { width, height } = prediction;
    const [x, y] = pixelOf(this.prompt, height, width);
    const existing = [this.full, cropped].filter(Boolean);
    const candidates = this.prompt.isNamed ? existing.map((one) => this.namedPart(one)) : [...existing, this.partOfFull(x, y)];
    for (const query of prediction.entityQueries(this.rules.entity_presence)) {
      if (!prediction.mayCover(query, x, y)) continue;
      const entity = Candidate.of(prediction.mask(query), width, height, prediction.iou[query], null, query);
      candidates.push(entity && entity.partAt(x, y));
    }
    return candidates.filter(Boolean);
  }

  partOfFull(x, y) {
    const part = this.full.partAt(x, y);
    return part && part.area < this.full.area ? part : null;
  }

  /** Whether (nearly) all of a mask is in the connected part under the point. */
  isSingleObject(candidate) {
    const part = this.namedPart(candidate);
    return part !== null && part.area >= this.rules.single_object_share * candidate.area;
  }

  namedPart(candidate) {
    const [x, y] = pixelOf(this.prompt, this.prediction.height, this.prediction.width);
    return candidate.partAt(x, y, this.rules.point_tolerance);
  }

  cropAround(prompt, candidate) {
    const { height, width, letterbox } = this.prediction;
    return cropAroundTarget(prompt, candidate.box, height, width, letterbox.size, this.rules);
  }

  /** The mask of query 0 in a crop, with a share of the full image's logits; null if it is empty. */
  async segmentCrop(crop, weight = 0) {
    const { masks, iou } = await this.segment(crop);
    const { side, letterbox } = this.prediction;
    const grid = masks.data.slice(0, side * side);
    const logits = crop.letterbox.logitsOf(grid, side);
    if (weight) {
      const full = letterbox.logitsOf(this.prediction.gridOf(0), side, crop.box);
      for (let i = 0; i < logits.length; i += 1) logits[i] = blend(logits[i], full[i], weight);
    }
    const mask = this.prediction.cleanMask(logits, crop.letterbox);
    const kept = { grid, letterbox: crop.letterbox, box: crop.box, weight };
    return Candidate.of(mask, crop.letterbox.width, crop.letterbox.height, iou.data[0], crop, 0, kept);
  }
}
