// Words for modalities, and whether two of them contradict each other: mimo_runtime/modalities.py.

/** The word of data sets for a modality; null for an empty text. `words`: {dicom, known, kinds}. */
export function canonical(modality, { dicom }) {
  const word = (modality ?? "").trim();
  return dicom[word.toUpperCase()] ?? (word.toLowerCase() || null);
}

/** Whether two canonical words name modalities that one image cannot both have. */
export function contradict(one, other, { known, kinds }) {
  if (!known.includes(one) || !known.includes(other)) return false;
  return one !== other && kinds[one] !== other && kinds[other] !== one;
}
