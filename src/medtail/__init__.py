"""medtail: long-tailed, multi-label medical image diagnosis, honestly judged.

A table of labelled images becomes a model, the model a table of predictions, the predictions results whose every
number about a rare class is honest, and the results a report. Public names are loaded when first used, so
`import medtail` is instant and never loads torch by itself.
"""

from __future__ import annotations

__version__ = "0.1.0"
