// Numbers and texts out of DICOM elements, whatever their value representation says: mimo_runtime/imageio/elements.py.

/** Tags that are read, by their keywords. */
export const TAGS = {
  SOPClassUID: "x00080016", ImageType: "x00080008", Modality: "x00080060", Units: "x00541001",
  SamplesPerPixel: "x00280002", PhotometricInterpretation: "x00280004", PlanarConfiguration: "x00280006", NumberOfFrames: "x00280008",
  Rows: "x00280010", Columns: "x00280011", BitsAllocated: "x00280100", BitsStored: "x00280101", PixelRepresentation: "x00280103",
  PixelPaddingValue: "x00280120", PixelPaddingRangeLimit: "x00280121", WindowCenter: "x00281050", WindowWidth: "x00281051",
  RescaleIntercept: "x00281052", RescaleSlope: "x00281053", RescaleType: "x00281054", VOILUTFunction: "x00281056",
  ModalityLUTSequence: "x00283000", VOILUTSequence: "x00283010", PresentationLUTShape: "x20500020",
  PixelSpacing: "x00280030", ImagerPixelSpacing: "x00181164", NominalScannedPixelSpacing: "x00182010", PixelSpacingCalibrationType: "x00280a02",
  SequenceOfUltrasoundRegions: "x00186011", RegionSpatialFormat: "x00186012", RegionLocationMinX0: "x00186018", RegionLocationMinY0: "x0018601a",
  RegionLocationMaxX1: "x0018601c", RegionLocationMaxY1: "x0018601e", PhysicalUnitsXDirection: "x00186024", PhysicalUnitsYDirection: "x00186026",
  PhysicalDeltaX: "x0018602c", PhysicalDeltaY: "x0018602e", SharedFunctionalGroupsSequence: "x52009229", PerFrameFunctionalGroupsSequence: "x52009230",
  FloatPixelData: "x7fe00008", DoubleFloatPixelData: "x7fe00009", PixelData: "x7fe00010", TransferSyntaxUID: "x00020010",
};

/** Value representations of numbers of fixed size: bytes, and how a view reads one. */
const BINARY = {
  US: [2, "getUint16"], SS: [2, "getInt16"], UL: [4, "getUint32"], SL: [4, "getInt32"], FL: [4, "getFloat32"], FD: [8, "getFloat64"],
};
/** What PS3.6 says of tags that hold such numbers, for files that do not state it. "xs": by the sign of the pixels. */
const IMPLICIT = {
  ...Object.fromEntries(["SamplesPerPixel", "PlanarConfiguration", "Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation",
    "RegionSpatialFormat", "PhysicalUnitsXDirection", "PhysicalUnitsYDirection"].map((name) => [name, "US"])),
  ...Object.fromEntries(["MinX0", "MinY0", "MaxX1", "MaxY1"].map((name) => [`RegionLocation${name}`, "UL"])),
  PhysicalDeltaX: "FD", PhysicalDeltaY: "FD", PixelPaddingValue: "xs", PixelPaddingRangeLimit: "xs",
};
const TEXT = ["AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "SH", "ST", "TM", "UC", "UI", "UR", "UT"];

/** Whether a data set has an element. */
export const has = (data, keyword) => Boolean(data.elements[TAGS[keyword]]);

/** The text of an element without padding; "" without one. */
export const text = (data, keyword) => (data.string(TAGS[keyword]) ?? "").trim();

/** The first number of an element; null if there is none that is finite. */
export const number = (data, keyword) => numbers(data, keyword, 1)[0] ?? null;

/** Two positive numbers, or null. */
export function pair(data, keyword) {
  const values = numbers(data, keyword, 3);
  return values.length === 2 && Math.min(...values) > 0 ? values : null;
}

/** The first numbers of an element; empty if one of them is not a finite number. */
function numbers(data, keyword, atMost) {
  const element = data.elements[TAGS[keyword]];
  if (!element?.length) return [];
  const values = partsOf(data, keyword, element).slice(0, atMost);
  return values.every(Number.isFinite) ? values : [];
}

function partsOf(data, keyword, element) {
  const { buffer, byteOffset } = data.byteArray;
  const view = new DataView(buffer, byteOffset + element.dataOffset, element.length);
  const sign = () => (data.uint16(TAGS.PixelRepresentation) ? "SS" : "US");
  const stated = element.vr ?? IMPLICIT[keyword] ?? "DS";
  const kind = stated === "xs" ? sign() : stated;
  if (BINARY[kind]) {
    const [size, read] = BINARY[kind];
    return Array.from({ length: Math.floor(element.length / size) }, (_, i) => view[read](i * size, true));
  }
  const words = String.fromCharCode(...new Uint8Array(buffer, byteOffset + element.dataOffset, element.length)).replace(/^[\0 ]+|[\0 ]+$/g, "");
  if (!TEXT.includes(kind) && !/^[\x20-\x7e]*$/.test(words)) {
    return Array.from({ length: Math.floor(element.length / 2) }, (_, i) => view.getUint16(2 * i, true));
  }
  return words.trim() ? words.split("\\").map(numberOf) : [];
}

/** A number that may have a comma for the point; NaN for what is none. */
function numberOf(words) {
  const plain = words.trim();
  const point = plain.split(",").length === 2 && !plain.includes(".") ? plain.replace(",", ".") : plain;
  return /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(point) ? Number(point) : NaN;
}
