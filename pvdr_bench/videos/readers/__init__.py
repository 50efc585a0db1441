"""Readers of the file formats that real videos come in; each ends in episodes of RGB frames, whatever the format."""
