"""One progress bar for terminals and notebooks."""

from __future__ import annotations

import sys

from tqdm import tqdm


class _NotebookLine:
    """A file for tqdm that rewrites one line of a notebook in place.

    tqdm's notebook bar is a widget: saved without its state, it shows as debris on a page without
    a kernel, and its text bar writes to stderr. A display handle leaves one clean line.
    """

    def __init__(self):
        self.handle, self.last = None, None

    def write(self, text: str) -> None:
        from IPython.display import display

        text = text.strip("\r\n ")
        if not text or text == self.last:
            return
        self.last = text
        line = {"text/plain": text}
        if self.handle is None:
            self.handle = display(line, raw=True, display_id=True)
        else:
            self.handle.update(line, raw=True)

    def flush(self) -> None:
        pass


def in_notebook() -> bool:
    """True inside a Jupyter kernel."""
    if "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return shell is not None and hasattr(shell, "kernel")


def bar(total: int | None, description: str, *, show: bool = True, initial: int = 0, unit="it"):
    """A tqdm bar that goes to a line of the notebook or to the terminal's stderr."""
    options = dict(total=total, desc=description, disable=not show, initial=initial, unit=unit)
    if in_notebook():
        return tqdm(**options, file=_NotebookLine(), ascii=" ━", ncols=100, mininterval=0.5)
    return tqdm(**options, dynamic_ncols=True)
