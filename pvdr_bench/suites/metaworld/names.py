"""Every Meta-World v3 environment, told without importing the package."""

NAMES = (
    "assembly", "basketball", "bin-picking", "box-close", "button-press-topdown", "button-press-topdown-wall",
    "button-press", "button-press-wall", "coffee-button", "coffee-pull", "coffee-push", "dial-turn", "disassemble",
    "door-close", "door-lock", "door-open", "door-unlock", "hand-insert", "drawer-close", "drawer-open",
    "faucet-open", "faucet-close", "hammer", "handle-press-side", "handle-press", "handle-pull-side", "handle-pull",
    "lever-pull", "pick-place-wall", "pick-out-of-hole", "pick-place", "plate-slide", "plate-slide-side",
    "plate-slide-back", "plate-slide-back-side", "peg-insert-side", "peg-unplug-side", "soccer", "stick-push",
    "stick-pull", "push", "push-wall", "push-back", "reach", "reach-wall", "shelf-place", "sweep-into", "sweep",
    "window-open", "window-close",
)
"""50 names; the environment of ``reach`` is ``reach-v3``."""

PAPER = (
    "button-press-topdown", "dial-turn", "drawer-close", "reach", "window-open", "button-press", "plate-slide",
    "plate-slide-back", "window-close", "plate-slide-side", "hand-insert", "drawer-open",
)
"""The twelve that PVDR reports."""
