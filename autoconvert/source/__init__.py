"""Where a model comes from: its module without weights in memory, and its weights read as needed."""
