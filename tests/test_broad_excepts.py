"""A broad except may turn a bug into a refusal: each file that has some is listed, with how many and why."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]

# How many, and why what is raised there is not the compiler's own.
ALLOWED = {
    "autoconvert/check/graph.py": (1, "the model's own code runs; a failed check is under way and stays one"),
    "autoconvert/check/pattern.py": (1, "code of a pattern runs, which anybody may have written"),
    "autoconvert/check/region.py": (1, "code of a pattern runs, which anybody may have written"),
    "autoconvert/cli/failures.py": (1, "the end of every command, where bugs are told as bugs"),
    "autoconvert/cli/quiet.py": (1, "what was silenced is told, then raised again"),
    "autoconvert/diagnose/proposals.py": (1, "a proposal that does not run is none"),
    "autoconvert/diagnose/scaffold.py": (1, "a proposal that does not run is none"),
    "autoconvert/driver/keep_failure.py": (
        2,
        "a failed check is under way and stays one; random numbers run through the model's own code",
    ),
    "autoconvert/driver/library.py": (2, "a file of patterns runs, which anybody may have written"),
    "autoconvert/ir/inference.py": (1, "an operation is asked whether it takes numbers at all"),
    "autoconvert/ir/verify.py": (2, "whatever fails is told as a broken pass"),
    "autoconvert/packaging/adapted_template.py": (3, "a foreign template runs, or one that is tried in its place"),
    "autoconvert/packaging/affixes.py": (2, "a foreign template runs"),
    "autoconvert/packaging/chat_template.py": (3, "a foreign template runs, here or in the runtime"),
    "autoconvert/packaging/dialogues.py": (1, "a foreign template runs"),
    "autoconvert/packaging/tokenizer.py": (1, "a foreign tokenizer is loaded"),
    "autoconvert/packaging/tokenizer_section.py": (1, "a foreign tokenizer is tried in another form"),
    "autoconvert/report/progress.py": (1, "marks the stage, then raises again"),
    "autoconvert/rewrite/pattern.py": (2, "code of a pattern runs, which anybody may have written"),
    "autoconvert/source/checkpoint.py": (1, "a damaged pickle makes torch's reader raise anything"),
    "autoconvert/source/config.py": (2, "foreign configuration code runs"),
    "autoconvert/source/gguf_folder.py": (
        2,
        "transformers reads settings and a vocabulary that anybody may have written",
    ),
    "autoconvert/source/skeleton.py": (1, "the model's own code runs"),
    "autoconvert/tracing/loops.py": (1, "the model's own code runs; what is ours is raised again"),
    "autoconvert/tracing/module.py": (1, "the model's own code runs; what is ours is raised again"),
    "autoconvert/tracing/one_step.py": (2, "the model's own code runs; what is ours is raised again"),
    "autoconvert/tracing/past.py": (1, "the model's own code runs; what is ours is raised again"),
    "autoconvert/system/remote.py": (
        4,
        "handed to the process that asked, and raised there; that ends first",
    ),
    "lowering/litert.py": (1, "the converter's own code runs; what is ours is raised again"),
    "lowering/workers.py": (1, "handed to the process that asked, and raised there"),
    "passes/decompose.py": (1, "code of a pattern's operation runs, which anybody may have written"),
    "passes/hoist_projections.py": (1, "torch traces a part of the model; what is ours is raised again"),
}


def test_every_broad_except_is_listed_with_its_reason() -> None:
    found: dict[str, int] = {}
    for folder in ("autoconvert", "lowering", "passes", "patterns"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ExceptHandler) and _is_broad(node.type):
                    name = str(path.relative_to(ROOT))
                    if name.split("/")[:2] not in (["autoconvert", "passes"], ["autoconvert", "lowering"]):
                        found[name] = found.get(name, 0) + 1
    assert found == {name: count for name, (count, _) in ALLOWED.items()}


def _is_broad(caught: ast.expr | None) -> bool:
    if isinstance(caught, ast.Tuple):
        return any(map(_is_broad, caught.elts))
    return caught is None or (isinstance(caught, ast.Name) and caught.id in ("Exception", "BaseException"))
