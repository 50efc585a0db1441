"""Measurements of what the project promises, on the user's own machine."""
