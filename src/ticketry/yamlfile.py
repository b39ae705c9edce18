"""YAML that a user points at: plain values only, no aliases, no surprises; torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ticketry.files import read_regular

MOST_BYTES = 16 << 20


def read_yaml(path: Path) -> Any:
    """Read a YAML file.

    Raises:
        ValueError: it is not YAML of plain values, in one line of words. Aliases are refused: a
            few lines of them stand for more text than there is memory.
        OSError: it cannot be read.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """The safe loader without aliases."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                event = self.peek_event()
                raise yaml.YAMLError(
                    f"the alias *{event.anchor} in line {event.start_mark.line + 1}; write the "
                    "value out"
                )
            return super().compose_node(parent, index)

    try:
        text = read_regular(path, MOST_BYTES).decode("utf-8-sig")
        return yaml.load(text, Loader)  # a safe loader's subclass
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except (yaml.YAMLError, ValueError) as error:  # dates and long numbers raise ValueErrors
        raise ValueError(" ".join(str(error).split())[:500]) from error
