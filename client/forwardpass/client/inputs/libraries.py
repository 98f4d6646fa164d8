"""Objects of libraries that the client does not import."""

import sys


def is_instance(value: object, module: str, *classes: str) -> bool:
    """Whether a value is of one of a library's classes.

    Args:
        value: Anything.
        module: The module that has the classes. Where it is not imported, nobody has an object of
            them.
        classes: Their names in the module.
    """
    found = sys.modules.get(module)
    return found is not None and isinstance(
        value, tuple(getattr(found, name, ()) for name in classes)
    )
