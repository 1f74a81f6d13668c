"""Results as clinical objects: measurements, DICOM SEG and SR, other formats, follow-up and reports.

Nothing here is imported by the rest of the runtime until it is used. DICOM objects need the extra ``clinical`` (highdicom).
"""
