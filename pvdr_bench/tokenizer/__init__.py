"""The frame tokenizer: its config, networks, training (the algorithm `vqgan`) and the frozen form that runs use."""
