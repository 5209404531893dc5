"""The compiler in reading order: the tuple of passes."""

from autoconvert.passes import (
    batch_to_sequence,
    bound_integers,
    canonicalize,
    cumsum_to_scan,
    decompose,
    dense_rows,
    exact_jumps,
    fill_by_positions,
    fold_weights,
    fuse,
    hoist_projections,
    insert_kv_cache,
    insert_scan_states,
    keys_to_slots,
    loops_to_pairs,
    materialize_positions,
    shifts_to_scan,
)
from autoconvert.rewrite.pass_manager import Pass

PASSES: tuple[Pass, ...] = (
    canonicalize.PASS,
    # Experts are fused in what loops over them become.
    loops_to_pairs.PASS,
    # What loops are left with, and everything else that picks rows.
    dense_rows.PASS,
    canonicalize.PASS,
    # Blocks are fused while weights and positions are still inputs: patterns are written that way.
    fuse.PASS,
    # What replacements compute beside their operation, as tables of another width, is the same for every layer.
    canonicalize.PASS,
    decompose.PASS,
    canonicalize.PASS,
    # After fusion, and before steps are a sequence: where an attention looks back must be seen.
    hoist_projections.PASS,
    # What was traced as a step is a sequence from here on.
    batch_to_sequence.PASS,
    # Before any proof along the sequence: a padded one is none.
    shifts_to_scan.PASS,
    fold_weights.PASS,
    fill_by_positions.PASS,
    # What no pattern fused: before positions are tables, so that tables of pairs are known to be of positions.
    keys_to_slots.PASS,
    # Masks become attributes of fused attention, so this comes after fusion.
    materialize_positions.PASS,
    # After positions: a sum over what tokens do not change is a table by now.
    cumsum_to_scan.PASS,
    # What remains along the sequence is scans, so that everything else may be proven to be separate.
    insert_kv_cache.PASS,
    insert_scan_states.PASS,
    # Before whole numbers are bounded: of those it makes the range must be shown too.
    exact_jumps.PASS,
    # Last, so that it sees every number that a device is asked to compute.
    bound_integers.PASS,
)
