"""What the runtime refuses or dies of."""

from autoconvert.errors import InputError


class RuntimeFailed(InputError):
    """The runtime refused a file, a bundle or a prompt, or died of it."""
