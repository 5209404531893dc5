"""What the files of a dump are called, and which form it has: for who writes it and who reads it."""

FORMAT = 3
MANIFEST = "dump.json"
TRIED = "tried.json"
PAGE = "index.html"


def overlay_file(figure: str) -> str:
    """The file with a figure of every node."""
    return f"overlay-{figure}.json"
