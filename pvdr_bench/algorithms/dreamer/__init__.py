"""DreamerV2, and APV, which stacks a world model with actions on one pre-trained from videos."""
