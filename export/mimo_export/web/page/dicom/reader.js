// DICOM images of one frame without compression, as a viewer would show them: mimo_runtime/imageio/dicom.py.
// No message carries a value of the file.
import { Refused } from "../api.js";
import { has, number, TAGS, text } from "./elements.js";
import { modalityOf, spacingOf } from "./header.js";
import { applyWindow, ascending, percentilesOf, toEightBit, windowOf } from "./intensity.js";

const near = Math.fround;
const NATIVE = ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"];

const invalid = (sentence) => new Refused(sentence, "invalid", 422);
const forService = (what) => invalid(`${what} Such files need the service: mimo-run serve.`);

/** Whether the first bytes are those of a DICOM file. */
export const isDicom = (head) => String.fromCharCode(...head.subarray(128, 132)) === "DICM";

/** The data set of a file. `parser`: dicom-parser. */
export function parse(bytes, parser) {
  try {
    return parser.parseDicom(bytes);
  } catch {
    // It throws texts and errors, which may quote the file.
    throw invalid("The DICOM file is damaged, or of a kind that only the service reads: mimo-run serve.");
  }
}

/** Refuse what only the service reads. `facts`: see facts_images.py. */
export function checkFile(data, facts) {
  const syntax = text(data, "TransferSyntaxUID");
  if (!NATIVE.includes(syntax)) throw forService("The DICOM file is compressed, or is not little-endian.");
  const kind = facts.no_images[text(data, "Modality")];
  if (kind) throw invalid(`The DICOM file is no image: ${kind}.`);
  const [rows, columns] = [number(data, "Rows"), number(data, "Columns")];
  const isReal = has(data, "FloatPixelData") || has(data, "DoubleFloatPixelData");
  if (!rows || !columns || !(isReal || has(data, "PixelData"))) throw invalid("The DICOM file has no pixels. Choose an image of the series.");
  if ((number(data, "NumberOfFrames") ?? 1) > 1) throw forService("The DICOM file has several frames.");
  if (isReal || has(data, "SharedFunctionalGroupsSequence") || has(data, "PerFrameFunctionalGroupsSequence")) {
    throw forService("The DICOM file is an enhanced object, or has real numbers as pixels.");
  }
  if (has(data, "ModalityLUTSequence") || has(data, "VOILUTSequence")) throw forService("The DICOM file has a lookup table for its grey values.");
  if (text(data, "Modality") === "PT" && text(data, "Units") === "BQML") throw forService("The DICOM file has activities, whose uptake values depend on the dose.");
}

/** {pixels, width, height, modality, spacing_mm, spacing_source, window} of a file; `window`: what the grey values show, or null. */
export function readDicom(data, facts, { modality = null, window = null } = {}) {
  checkFile(data, facts);
  const [height, width] = [number(data, "Rows"), number(data, "Columns")];
  const stated = modalityOf(data, facts.modalities);
  const common = { width, height, modality: stated, ...spacingOf(data, facts) };
  const stored = storedOf(data, width * height);
  if (stored.isColour) return { ...common, pixels: stored.values, window: null };
  return { ...common, ...greyOf(data, stored, stated ?? modality, window, facts) };
}

/** {values, bits, isColour}: numbers as stored, uint8 or [u]int16; colours as uint8 [H, W, 3]. */
function storedOf(data, count) {
  const samples = number(data, "SamplesPerPixel") ?? 1;
  const allocated = number(data, "BitsAllocated");
  const photometric = text(data, "PhotometricInterpretation") || (samples === 1 ? "MONOCHROME2" : "RGB");
  const isGrey = samples === 1 && photometric.startsWith("MONOCHROME") && (allocated === 8 || allocated === 16);
  const isColour = samples === 3 && photometric === "RGB" && allocated === 8;
  if (!isGrey && !isColour) throw forService("The DICOM file has colours or numbers of another kind than RGB with 8 bits, and grey with 8 or 16.");
  const { dataOffset, length } = data.elements[TAGS.PixelData];
  if (length < (samples * count * allocated) / 8) throw invalid("The DICOM file is damaged: it has fewer pixels than it states. Export it again.");
  const start = data.byteArray.byteOffset + dataOffset;
  const bytes = data.byteArray.buffer.slice(start, start + (samples * count * allocated) / 8);
  if (isColour) return { values: interleaved(new Uint8Array(bytes), count, number(data, "PlanarConfiguration") === 1), isColour };
  const isSigned = Boolean(number(data, "PixelRepresentation"));
  const bits = Math.min(number(data, "BitsStored") ?? allocated, allocated);
  const kinds = allocated === 8 ? [Uint8Array, Int8Array] : [Uint16Array, Int16Array];
  const unused = 32 - bits;
  const values = new kinds[Number(isSigned)](bytes).map((value) => (isSigned ? (value << unused) >> unused : (value << unused) >>> unused));
  return { values, bits, isColour, isByte: allocated === 8 && !isSigned };
}

function interleaved(values, count, isPlanar) {
  return isPlanar ? values.map((_, i) => values[(i % 3) * count + Math.floor(i / 3)]) : values;
}

/** {pixels, window} of grey values. */
function greyOf(data, { values: stored, bits, isByte }, modality, window, facts) {
  const [slope, intercept] = [number(data, "RescaleSlope") || 1, number(data, "RescaleIntercept") || 0];
  const values = Float32Array.from(stored, (value) => near(value * near(slope)) + near(intercept));
  const padding = paddingOf(data, stored);
  const isEmpty = Boolean(padding?.every(Boolean));
  const sorted = ascending(values, padding && !isEmpty ? padding.map((value) => 1 - value) : null);
  const isDensity = (text(data, "RescaleType") || "HU") === "HU" && !text(data, "ImageType").includes("LOCALIZER");
  const isStored = isByte && slope === 1 && intercept === 0 && bits === 8;
  const ofModel = isStored || (modality === "ct" && !isDensity) ? null : windowOf(sorted, modality, facts);
  const grey = eightBit(data, stored, values, sorted, isStored, window ?? ofModel, facts);
  if (text(data, "PhotometricInterpretation") === "MONOCHROME1" || text(data, "PresentationLUTShape") === "INVERSE") {
    for (let i = 0; i < grey.pixels.length; i += 1) grey.pixels[i] = 255 - grey.pixels[i];
  }
  const pixels = new Uint8Array(3 * grey.pixels.length);
  grey.pixels.forEach((value, i) => pixels.fill(padding?.[i] ? 0 : value, 3 * i, 3 * i + 3));
  return { pixels, window: grey.window ?? (isEmpty ? null : shownWindow(sorted, facts)) };
}

/** {pixels, window}: by a window that is wanted, else that of the file; `window` is null where the file or percentiles decide. */
function eightBit(data, stored, values, sorted, isStored, wanted, facts) {
  if (wanted) return { pixels: applyWindow(values, ...wanted), window: wanted };
  const [centre, width] = [number(data, "WindowCenter"), number(data, "WindowWidth")];
  if (centre !== null && width !== null && width > 0) {
    return { pixels: applyWindow(values, centre, width, text(data, "VOILUTFunction") || "LINEAR"), window: null };
  }
  return { pixels: isStored ? Uint8Array.from(stored) : toEightBit(values, sorted, facts), window: null };
}

/** Centre and width of the values that a picture shows: mimo_runtime/services/http/page/pictures.py. */
function shownWindow(sorted, { percentiles }) {
  const [low, high] = percentilesOf(sorted, percentiles);
  return [(low + high) / 2, Math.max(high - low, 1e-6)];
}

/** 1 where a pixel only fills the rectangle; null if the file names no such value. */
function paddingOf(data, stored) {
  const first = number(data, "PixelPaddingValue");
  if (first === null) return null;
  const ends = [first, number(data, "PixelPaddingRangeLimit") ?? first].map((value) => asStored(value, stored));
  return Uint8Array.from(stored, (value) => (value >= Math.min(...ends) && value <= Math.max(...ends) ? 1 : 0));
}

/** A value that the file writes with the wrong sign. */
function asStored(value, stored) {
  const turn = 2 ** (8 * stored.BYTES_PER_ELEMENT);
  const low = stored instanceof Int8Array || stored instanceof Int16Array ? -turn / 2 : 0;
  if (value >= low + turn) return value - turn;
  return value < low ? value + turn : value;
}
