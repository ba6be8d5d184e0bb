"""Files that systems, editors and sync clients leave in any folder: not the user's."""

import re
from collections.abc import Iterable
from pathlib import Path


_NAMES = re.compile(
    # macOS
    r"\.DS_Store|\._.*|Icon\r|\.localized|\.fseventsd|\.Spotlight-V100|\.Trashes"
    r"|\.TemporaryItems|\.AppleDouble|__MACOSX"
    # Windows, network drives, sync clients
    r"|Thumbs\.db|desktop\.ini|\$recycle\.bin|system volume information"
    r"|@eaDir|#recycle|\.directory|\.Trash-\d+|lost\+found"
    r"|\.nfs[0-9a-f]+|\.fuse_hidden[0-9a-f]+|\.dropbox.*|\.stfolder|\.sync.*"
    # editors
    r"|\.ipynb_checkpoints|__pycache__|\.idea|\.vscode|\..*\.sw[a-p]",
    re.IGNORECASE,
)


def is_clutter(name: str) -> bool:
    """Whether a file or folder of this name is left by a system or an editor."""
    return _NAMES.fullmatch(name) is not None


def without(paths: Iterable[Path]) -> list[Path]:
    """The paths that are not clutter, in the order of their names."""
    return sorted(path for path in paths if not is_clutter(path.name))
