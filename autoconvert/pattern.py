"""What a file of patterns imports: `Pattern`, and `same` for its guards."""

from autoconvert.rewrite.pattern import Pattern as Pattern
from autoconvert.rewrite.pattern import same as same
