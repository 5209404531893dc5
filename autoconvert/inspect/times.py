"""How long the stages of a conversion took, as its report says."""

import json
from pathlib import Path

from autoconvert.errors import InputError
from autoconvert.report.progress import StageTime


def read_times(report: Path) -> tuple[StageTime, ...]:
    """The stages of a `report.json`.

    Raises:
        InputError: it is missing, or no report.
    """
    if not report.is_file():
        raise InputError(f"{report}: missing", hint="Give the report.json of the conversion that wrote the dump.")
    try:
        stages = json.loads(report.read_bytes())["stages"]
        return tuple(StageTime(str(s["name"]), float(s["seconds"]), str(s["note"])) for s in stages)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{report} is not a conversion's report.", hint="Give the report.json that lies beside the model."
        ) from error
