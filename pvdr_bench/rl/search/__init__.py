"""Monte Carlo tree search over arrays: many trees at once, one node of each per simulation.

``tree.py``   the trees' numbers: selection (PUCT), expansion, backup
``mcts.py``   a whole search with a learned model; root noise, temperature
``boxes.py``  continuous actions as a discrete set: halves of the action box, one action drawn in each
"""
