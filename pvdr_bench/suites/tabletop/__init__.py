"""Three tasks of a Panda arm at a table in MuJoCo, after RLBench's protocol and not RLBench: see ``info.py``."""
