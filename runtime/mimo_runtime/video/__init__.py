"""Video files: frames in the order of their presentation, and a video of masks over them. Needs PyAV (extra ``video``)."""
