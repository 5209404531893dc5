"""Dumps of small modules, and how to read them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from autoconvert.check.region import RegionCheck
from autoconvert.driver.compile import dump_signature
from autoconvert.driver.trace_and_rewrite import rewrite
from autoconvert.dump.dump import dump_to
from autoconvert.lowering.cpu import CPU
from autoconvert.patterns import PATTERNS
from autoconvert.rewrite.pass_manager import Options
from autoconvert.rewrite.pattern import Pattern
from tests.models import CONTEXT, signatures


@dataclass(frozen=True)
class Read:
    """A dump as somebody reads it."""

    folder: Path

    @property
    def manifest(self) -> dict[str, Any]:
        manifest: dict[str, Any] = json.loads((self.folder / "dump.json").read_text())
        return manifest

    def the_pass(self, name: str) -> dict[str, Any]:
        (found,) = [each for each in self.manifest["passes"] if each["name"] == name]
        assert isinstance(found, dict)
        return found

    def nodes(self, name: str) -> dict[str, dict[str, Any]]:
        text = (self.folder / f"{self.the_pass(name)['file']}.json").read_text()
        return {node["id"]: node for node in json.loads(text)["graphs"][0]["nodes"]}

    def attributes(self, name: str, node: str) -> dict[str, str]:
        return {attr["key"]: attr["value"] for attr in self.nodes(name)[node]["attrs"]}


def dump_of(module: nn.Module, folder: Path, patterns: Sequence[Pattern] = PATTERNS) -> Read:
    """As a conversion dumps: each pass, then the signatures."""
    sizes = {name: tensor.nbytes for name, tensor in module.state_dict().items()}
    with dump_to(folder, "tiny", sizes, {pattern.name: pattern for pattern in patterns}) as dump:
        regions = RegionCheck()
        dump.errors = regions.errors
        program = rewrite(
            module,
            Options(CONTEXT, patterns, regions, CPU),
            after=lambda step, program: dump.after(step.name, program, step.summary),
            on_trace=dump.traced,
        )
        for name, part in signatures(program, [4]).items():
            dump_signature(dump, name, part)
    return Read(folder)
