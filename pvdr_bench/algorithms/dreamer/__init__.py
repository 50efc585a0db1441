"""DreamerV2, and what pre-trains its world model on videos: APV, ContextWM, PreLAR."""
