"""What a trained model or run does, and whether the statistics hold: measured as the speed benches are, by `bench`."""
