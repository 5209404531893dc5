"""What `autoconvert plan` says."""

from collections.abc import Iterator

from rich.text import Text

from autoconvert.driver.estimate import Plan
from autoconvert.driver.settings import as_data
from autoconvert.report.readable import readable_context, readable_size
from autoconvert.report.summary import block_counts, labelled


def planned(plan: Plan) -> Iterator[Text]:
    """The lines about a plan; a wall is not among them, it is a refusal."""
    settings = plan.settings
    yield labelled("model", f"{plan.name}: {plan.parameters / 1e6:,.0f} million parameters")
    yield labelled("checkpoint", f"{readable_size(plan.checkpoint_bytes)} to read")
    if plan.wall is None:
        yield labelled("found", block_counts(plan.blocks))
    yield labelled("context", readable_context(as_data(settings)))
    files = (f"{readable_size(size)} {recipe}" for recipe, size in plan.files.items())
    yield labelled("file", ", ".join(files))
    memory, disk = readable_size(plan.needs.memory), readable_size(plan.needs.disk)
    scratch = f", and {readable_size(plan.needs.scratch)} for temporary files" if plan.needs.scratch else ""
    yield labelled("needs", f"about {memory} of memory and {disk} of disk{scratch}, as {settings.quantize.name}")
    if plan.wall is None:
        yield labelled("takes", f"about {plan.seconds:.0f} s on two cores")
