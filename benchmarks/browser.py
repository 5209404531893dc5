"""The Chromium that is installed, for what is shown in a browser."""

import shutil


def chromium() -> str:
    """The path of its program.

    Raises:
        SystemExit: none is installed.
    """
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        raise SystemExit("no Chromium is installed (Debian: apt-get install chromium)")
    return found
