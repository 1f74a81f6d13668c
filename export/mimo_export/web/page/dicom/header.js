// What a DICOM header says of modality and spacing: mimo_runtime/imageio/dicom_header.py.
import { canonical } from "../numeric/modalities.js";
import { has, number, pair, TAGS, text } from "./elements.js";

const [CENTIMETRE, SPATIAL_2D] = [3, 1];

/** The modality as data sets write it; null if the file does not say, or says "other". */
export function modalityOf(data, words) {
  const modality = text(data, "Modality");
  return modality === "OT" ? null : canonical(modality, words);
}

/** {spacing_mm: [row, column] or null, spacing_source: where it comes from, or null}. */
export function spacingOf(data, { projections, ultrasound }) {
  const modality = text(data, "Modality");
  const known = (spacing, source) => ({ spacing_mm: spacing, spacing_source: spacing && source });
  const regions = ultrasound.includes(modality) ? regionsOf(data) : [];
  if (regions.length) return known(regions.some(({ spacing }) => spacing) ? commonSpacing(regions) : null, "ultrasound regions");
  const [plain, detector] = [pair(data, "PixelSpacing"), pair(data, "ImagerPixelSpacing")];
  const isCorrected = Boolean(text(data, "PixelSpacingCalibrationType"));
  const isSame = plain && detector && plain.every((value, i) => Math.abs(value - detector[i]) <= 1e-8 + 1e-5 * Math.abs(detector[i]));
  if (isSame && !isCorrected) return known(plain, "detector plane, magnified");
  if (plain && !detector && projections.includes(modality) && !isCorrected) {
    return known(plain, "PixelSpacing of a projection, not corrected for magnification");
  }
  if (plain) return known(plain, "PixelSpacing");
  if (detector) return known(detector, "detector plane, magnified");
  return known(pair(data, "NominalScannedPixelSpacing"), "scanned film");
}

/** The spacing of all pictures among the regions; null where they differ. */
function commonSpacing(regions) {
  const spacings = regions.filter(({ isPicture }) => isPicture).map(({ spacing }) => spacing);
  return spacings.length && spacings.every((spacing) => `${spacing}` === `${spacings[0]}`) ? spacings[0] : null;
}

function regionsOf(data) {
  if (!has(data, "SequenceOfUltrasoundRegions")) return [];
  return (data.elements[TAGS.SequenceOfUltrasoundRegions].items ?? []).map(({ dataSet: item }) => {
    const isCentimetre = ["X", "Y"].every((axis) => number(item, `PhysicalUnits${axis}Direction`) === CENTIMETRE);
    const [across, down] = [number(item, "PhysicalDeltaX"), number(item, "PhysicalDeltaY")];
    const isPicture = [SPATIAL_2D, null].includes(number(item, "RegionSpatialFormat"));
    const isKnown = isPicture && isCentimetre && across && down;
    return { isPicture, spacing: isKnown ? [down, across].map((delta) => Number((Math.abs(delta) * 10).toFixed(9))) : null };
  });
}
