"""The real RLBench, installed by the user, behind the interface of ``suites/base.py``; see ``info.py``."""
