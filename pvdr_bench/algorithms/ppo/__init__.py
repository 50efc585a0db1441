"""Proximal policy optimisation on frozen frame tokens; its core also trains PVDR's action module."""
