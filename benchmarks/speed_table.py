"""The figures of one session, on the terminal."""

from rich.table import Table
from speeds import MEASURES, Measure, Session, first_load, median, of_limit, ratio


def speed_table(session: Session, against: str) -> Table:
    """A row for each peer at each history: medians, and in brackets their ratios over the peer `against`."""
    table = Table(
        "in",
        "peer",
        *(f"{measure.name} {measure.unit}" for measure in MEASURES),
        "of the memory's limit",
        "first load s",
        title=f"{session.shape}, {session.plan.rounds} rounds (ratios over {against})",
    )
    for history in session.plan.histories:
        for peer in session.peers():
            cells = [_cell(session, peer, against, history, measure) for measure in MEASURES]
            part, first = of_limit(session, peer, history), first_load(session, peer)
            table.add_row(
                str(history),
                peer,
                *cells,
                "" if part is None else f"{part:.0%}",
                "" if first is None else f"{first:.1f}",
            )
        table.add_section()
    return table


def _cell(session: Session, peer: str, against: str, history: int, measure: Measure) -> str:
    value = median(session, peer, history, measure)
    over = None if peer == against else ratio(session, peer, against, history, measure)
    text = "" if value is None else measure.show(value)
    return text if over is None else f"{text} ({over:.2f})"
