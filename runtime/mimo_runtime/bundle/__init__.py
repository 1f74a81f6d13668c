"""The bundle: its archive, manifest and schema, where its graphs run, and how one is written."""
