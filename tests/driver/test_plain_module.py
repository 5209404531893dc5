"""A decoder that nobody's library knows converts the same way, and transformers need not even be there."""

import subprocess
import sys
import textwrap
from pathlib import Path

SCRIPT = """
    import sys

    class Absent:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] == "transformers":
                raise ImportError("transformers is not installed")

    sys.meta_path.insert(0, Absent())
    import torch
    import autoconvert
    from autoconvert.check.parity import distance, random_tokens
    from autoconvert.runtime.runner import open_file
    from tests.plain_llama import PlainLlama

    torch.manual_seed(0)
    model = PlainLlama().eval()
    folder = sys.argv[1]
    bundle = autoconvert.convert(model, folder, quantize="none", context=24, prefill=(6,), formats=("tflite",))
    tokens = random_tokens(24, 61)
    with torch.no_grad():
        expected = model(torch.tensor([tokens]))[0]
    with open_file(bundle.files["tflite"]) as runner:
        logits = torch.stack([runner.logits_at(tokens, position) for position in range(24)])
    assert float(distance(logits, expected).max()) < 1e-4
    assert bundle.report.blocks == {"norm": 5, "rotary": 4, "attention": 2, "feed_forward": 2}
    assert "transformers" not in sys.modules
    print("right")
"""


def test_a_plain_llama_converts_where_transformers_cannot_be_imported(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path / "out")],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.endswith("right\n"), done.stderr[-3000:]
