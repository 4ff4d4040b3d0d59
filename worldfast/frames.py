"""pandas, imported when a name of it is first used, so that `import worldfast` stays light.

Modules that make or take tables begin with ``from worldfast import frames as pd``.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name.startswith("__"):  # of modules, which import machinery and tools ask for
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import pandas

    return getattr(pandas, name)
