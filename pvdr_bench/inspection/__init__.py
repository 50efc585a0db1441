"""What the models think, in pictures and numbers: ``pvdr-bench inspect``. Knows no algorithm: see ``rl/views.py``."""
