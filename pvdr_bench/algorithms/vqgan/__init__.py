"""The frame tokenizer: a VQGAN in the manner of taming-transformers."""
