"""Meta-World v3: what it says of itself (``info``), its environments (``env``) and its videos (``corpus``)."""
