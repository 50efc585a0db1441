"""Run directories, artefacts, checkpoints, locks and provenance; no torch is needed to read them."""
