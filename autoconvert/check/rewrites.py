"""The checks of rewrites where they happen: of patterns that are fused, and of canonicalization rules that apply."""

from dataclasses import dataclass, field

from autoconvert.check.region import RegionCheck
from autoconvert.check.rule import RuleCheck


@dataclass(frozen=True)
class RewriteChecks:
    """Both watch the passes, each distinct rewrite executed once."""

    regions: RegionCheck = field(default_factory=RegionCheck)
    rules: RuleCheck = field(default_factory=RuleCheck)

    def __str__(self) -> str:
        return f"{self.regions.executed} distinct regions and {self.rules.executed} applications of rules executed"
