"""A DICOM node: it receives studies from a PACS, answers about them after rules, and returns SEG, SR and other objects."""
