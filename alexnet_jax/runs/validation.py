from collections.abc import Callable


Validate = Callable[..., dict[str, float]]
