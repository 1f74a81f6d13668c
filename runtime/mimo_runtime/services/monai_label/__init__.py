"""The REST protocol of MONAI Label, as its clients in 3D Slicer, OHIF and MITK use it."""
