// Files as pixels: mimo_runtime/imageio/reader.py, for PNG with at most 8 bits, JPEG, and DICOM without compression.
import { Refused } from "./api.js";
import { checkFile, isDicom, parse, readDicom } from "./dicom/reader.js";
import { number } from "./dicom/elements.js";

/** Bits of a channel of a PNG file; null for other files. */
const bitsOfPng = (head) => (head[0] === 0x89 && head[1] === 0x50 && head[2] === 0x4e && head[3] === 0x47 ? head[24] : null);

const invalid = (sentence) => new Refused(sentence, "invalid", 422);

/**
 * {bitmap, pixels, width, height, modality, spacing_mm, spacing_source, window, again} of a file: pixels uint8 [H, W, 3], what its
 * header states, the window of its grey values or null, and a function that reads it again with {modality, window}, or null.
 */
export async function readPicture(blob, facts) {
  const head = new Uint8Array(await blob.slice(0, 132).arrayBuffer());
  if (isDicom(head)) return ofDicom(new Uint8Array(await blob.arrayBuffer()), facts);
  const bits = bitsOfPng(head);
  const isJpeg = head[0] === 0xff && head[1] === 0xd8;
  if (bits === null && !isJpeg) throw invalid("The file is not PNG, JPEG or DICOM. Other formats need the service: mimo-run serve.");
  if (bits > 8) throw invalid("The PNG has more than 8 bits. Such images need the service: mimo-run serve.");
  return ofPicture(blob, facts);
}

/** A PNG or JPEG file, without colour management, alpha over black. */
async function ofPicture(blob, facts) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "default", imageOrientation: "from-image" });
  } catch {
    throw invalid("The file is damaged. Export or download it again.");
  }
  const { width, height } = bitmap;
  checkSize(width, height, facts);
  const context = new OffscreenCanvas(width, height).getContext("2d", { alpha: false, willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  const pixels = new Uint8Array(width * height * 3);
  for (let i = 0; i < width * height; i += 1) pixels.set(data.subarray(4 * i, 4 * i + 3), 3 * i);
  return { bitmap, pixels, width, height, modality: null, spacing_mm: null, spacing_source: null, window: null, again: null };
}

async function ofDicom(bytes, facts) {
  const data = parse(bytes, await parser());
  checkFile(data, facts);
  checkSize(number(data, "Columns"), number(data, "Rows"), facts);
  const again = async (rules) => {
    const image = readDicom(data, facts, rules);
    return { ...image, bitmap: await bitmapOf(image), again };
  };
  return again({});
}

async function bitmapOf({ pixels, width, height }) {
  const image = new ImageData(width, height);
  for (let i = 0; i < width * height; i += 1) {
    image.data.set(pixels.subarray(3 * i, 3 * i + 3), 4 * i);
    image.data[4 * i + 3] = 255;
  }
  return createImageBitmap(image);
}

/** dicom-parser, a script that is no module: it sets a global name. */
async function parser() {
  if (!globalThis.dicomParser) {
    const script = Object.assign(document.createElement("script"), { src: "dicom-parser/dicomParser.min.js" });
    await new Promise((resolve, reject) => {
      script.onload = resolve;
      script.onerror = () => reject(new Refused("The file dicom-parser/dicomParser.min.js is missing. Export the site again.", "missing", 404));
      document.head.append(script);
    });
  }
  return globalThis.dicomParser;
}

/** Refuse sizes outside the limits: mimo_runtime/imageio/image.py. */
function checkSize(width, height, { min_side: least, max_side: most, max_pixels: area }) {
  if (Math.min(width, height) < least || Math.max(width, height) > most || width * height > area) {
    throw invalid(`The image has ${width} x ${height} pixels. Each side needs ${least} to ${most}, and ${area / 1e6} million in all are the most.`);
  }
}
