"""Starting runs: on this machine (``local``), each in a process of its own (``worker``)."""
