"""The Fetch robot: no tasks, only videos of another robot in another scene."""
