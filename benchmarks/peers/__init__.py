"""What speaks beside ours: one file a peer; peers/every.py lists them."""
