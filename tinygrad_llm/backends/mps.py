"""Apple's GPUs are not supported."""


def is_available() -> bool:
    """False: there is no such device here; computations run on the CPU."""
    return False


def is_built() -> bool:
    """False."""
    return False
