"""Whether a part that a file or a client names lies inside what is there."""


def inside(offset: int, length: int, total: int) -> bool:
    """Whether `length` bytes from `offset` are within `total` bytes. In this form no sum can wrap, in any language."""
    return length <= total and offset <= total - length
