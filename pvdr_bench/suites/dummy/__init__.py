"""A suite without a simulator, for tests of everything around the environment."""
