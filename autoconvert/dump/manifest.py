"""What a dump's manifest is called, and which form it has: for those that write it and those that read it."""

FORMAT = 1
MANIFEST = "dump.json"
