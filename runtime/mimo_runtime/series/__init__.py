"""Ordered frames of one acquisition: folders, archives, multi-frame files and volumes."""
