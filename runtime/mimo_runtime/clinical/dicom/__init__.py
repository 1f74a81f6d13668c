"""Results as DICOM objects. highdicom is imported when one is written."""
