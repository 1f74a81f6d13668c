"""A processing module of the DICOM router Mercure: a folder of DICOM files in, a folder of results out."""
