"""Corpora of action-free videos: generators and one clip store, in pixels and in tokens."""
