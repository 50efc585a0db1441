"""Finished runs, played: films of policy and plan, and policies that are kept to be played."""
