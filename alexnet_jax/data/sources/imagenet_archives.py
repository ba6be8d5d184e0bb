"""ImageNet's archives as image-net.org and the Hub hand them out: which are there, and
the images in them, which are read in place."""

import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from alexnet_jax.data.encoded import FileEntry
from alexnet_jax.data.image_tree import LeftOut, printable
from alexnet_jax.data.sources import tar_index
from alexnet_jax.data.sources.tar_index import Member
from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import InputError


NAMES = {
    "train": "ILSVRC2012_img_train.tar",
    "validation": "ILSVRC2012_img_val.tar",
    "devkit": "ILSVRC2012_devkit_t12.tar.gz",
}
# A browser numbers what it downloads twice.
_PATTERNS = {
    "train": re.compile(r"ILSVRC(\d{4})_(?:img|images)_train(?: ?\(\d+\))?\.tar"),
    "validation": re.compile(r"ILSVRC(\d{4})_(?:img|images)_val(?: ?\(\d+\))?\.tar"),
    "devkit": re.compile(r"ILSVRC(\d{4})_devkit.*\.tar\.gz"),
}
# The Hub's older form: a flat archive, or several, whose images end in their WNID.
_HUB = {
    "train": re.compile(r"train_images_\d+\.tar(\.gz)?"),
    "validation": re.compile(r"val_images\.tar(\.gz)?"),
}
_NUMBER = re.compile(r"_(\d+)\.tar")
_WNID_AT_END = re.compile(r"_(n\d{8})\.\w+$")
# No label yet: labels number the classes of both splits.
NO_LABEL = -1

# Images by the WNID of their class, in their order.
Images = list[tuple[str, FileEntry]]


class Archives(NamedTuple):
    """The archives of a folder.

    Attributes:
      found: the archive of each role, `train`, `validation` and `devkit`.
      hub: the Hub's archives of each split.
      year: of those of image-net.org; empty without any.
      notes: which of several was chosen, and what is missing, a line each.
    """

    found: dict[str, Path]
    hub: dict[str, list[Path]]
    year: str
    notes: list[str]

    def files(self) -> Iterator[Path]:
        """All of them."""
        yield from self.found.values()
        for paths in self.hub.values():
            yield from paths


def find(root: Path) -> Archives:
    """The archives in a folder.

    Raises:
      InputError: if it can't be listed, or it is in doubt which archives to take.
    """
    try:
        files = sorted(path for path in root.iterdir() if not path.is_dir())
    except OSError as error:
        raise InputError(
            f"{printable(root)} can't be read ({error.strerror})"
        ) from error
    by_role: dict[str, dict[str, list[Path]]] = {}
    for role, pattern in _PATTERNS.items():
        for file in files:
            if match := pattern.fullmatch(file.name):
                by_role.setdefault(role, {}).setdefault(match[1], []).append(file)
    hub = {split: _of_hub(files, pattern) for split, pattern in _HUB.items()}
    hub = {split: paths for split, paths in hub.items() if paths}
    notes = [note for paths in hub.values() for note in _absent(root, paths)]
    year = _year(root, by_role)
    found = {}
    for role, years in by_role.items():
        # Where another year's devkit is all there is, reading it names what it lacks.
        paths = years.get(year) or next(iter(years.values()))
        found[role] = _choose(root, role, paths, notes)
        others = [p.name for y, some in years.items() if y != year for p in some]
        if role == "devkit" and year in years and others:
            notes.append(
                f"{printable(root)}: of several devkits {found[role].name} is taken, "
                f"that of the year {year}, and not {', '.join(others)}"
            )
    return Archives(found, hub, year, notes)


def _of_hub(files: Iterable[Path], pattern: re.Pattern[str]) -> list[Path]:
    """The Hub's archives of a split by their number; unpacked before compressed."""
    found = {
        file.name.removesuffix(".gz"): file
        for file in sorted(files, reverse=True)
        if pattern.fullmatch(file.name)
    }
    return [found[name] for name in sorted(found, key=lambda name: (len(name), name))]


def _absent(root: Path, paths: list[Path]) -> list[str]:
    """A line on the numbers that are missing among the Hub's archives of a split."""
    found = {int(m[1]) for path in paths if (m := _NUMBER.search(path.name))}
    absent = sorted(set(range(max(found, default=-1) + 1)) - found)
    if not absent:
        return []
    numbers = ", ".join(map(str, absent))
    return [f"{printable(root)}: beside {paths[0].name} number {numbers} is not there"]


def _year(root: Path, by_role: dict[str, dict[str, list[Path]]]) -> str:
    """The year of the images' archives; without them that of the devkit, 2012 first."""
    images = {
        year: paths[0].name
        for role in ("train", "validation")
        for year, paths in by_role.get(role, {}).items()
    }
    kits = {year: paths[0].name for year, paths in by_role.get("devkit", {}).items()}
    # A devkit of another year beside the one that fits does no harm.
    years = images | (kits if images and not set(images) & set(kits) else {})
    if len(years) > 1:
        raise InputError(
            f"{printable(root)} mixes the archives of different years: "
            f"{' and '.join(sorted(years.values()))}"
        )
    if years:
        return next(iter(years))
    return "2012" if "2012" in kits else min(kits, default="")


def _choose(root: Path, role: str, paths: list[Path], notes: list[str]) -> Path:
    """One of the archives of a role and a year."""
    if len(paths) == 1:
        return paths[0]
    if role == "devkit":
        # Tasks 1 and 2 are classification and localization.
        of_task = [path for path in paths if "_t12" in path.name]
        chosen = of_task[0] if len(of_task) == 1 else None
    else:
        # Downloads of one file; one of them may be cut off.
        same = len({path.stat().st_size for path in paths}) == 1
        chosen = min(paths, key=lambda path: len(path.name)) if same else None
    others = [path for path in paths if path != chosen]
    if chosen is None:
        lengths = ", ".join(f"{p.name} of {p.stat().st_size} bytes" for p in others)
        raise InputError(
            f"{printable(root)} has both {paths[0].name} and {paths[1].name} "
            f"({lengths}); move all but the right one out of the folder"
        )
    notes.append(
        f"{printable(root)}: {chosen.name} is taken, and not "
        f"{', '.join(path.name for path in others)}"
    )
    return chosen


def training(path: Path, wnids: Collection[str], of: str) -> tuple[Images, LeftOut]:
    """The training images, in the order in which they lie in the archive.

    Args:
      path: the archive.
      wnids: the classes that it must have.
      of: whose classes these are, for messages.

    Raises:
      InputError: if the archive is damaged, or has not just the classes `wnids`.
    """
    outer, left_out = shown_members(path)
    inner = {base(member.name).removesuffix(".tar"): member for member in outer}
    if strangers := sorted(set(inner) - set(wnids)):
        raise InputError(f"{path} has {strangers[0]}.tar, which is no class of {of}")
    if missing := sorted(set(wnids) - set(inner)):
        raise InputError(
            f"{path} lacks {len(missing)} of {len(wnids)} classes' archives: "
            f"{', '.join(f'{wnid}.tar' for wnid in missing[:5])}"
            f"{' and others' if len(missing) > 5 else ''}; fetch it again"
        )
    images = []
    with progress.counted("reading archives", len(inner)) as advance:
        for wnid, archive in inner.items():
            members, more = shown_members(path, archive)
            left_out += more
            if not members:
                raise InputError(f"{path}: {archive.name} has no images")
            for name, offset, length in members:
                file = f"{wnid}/{base(name)}"
                entry = FileEntry(file, NO_LABEL, path.name, offset, length)
                images.append((wnid, entry))
            advance(1)
    return images, left_out


def of_hub(paths: Iterable[Path]) -> tuple[Images, LeftOut]:
    """The images of the Hub's archives, whose names end in their classes' WNIDs.

    Raises:
      InputError: if an archive is damaged, or an image has no WNID in its name.
    """
    images: Images = []
    left_out = LeftOut()
    for path in paths:
        members, more = shown_members(path)
        left_out += more
        for name, offset, length in members:
            match = _WNID_AT_END.search(name)
            if not match:
                raise InputError(
                    f"{path} has {name!r}, which has no WNID at its end, as "
                    "n01440764_10026_n01440764.JPEG has"
                )
            entry = FileEntry(base(name), NO_LABEL, path.name, offset, length)
            images.append((match[1], entry))
    return images, left_out


def shown_members(
    path: Path, within: Member | None = None
) -> tuple[list[Member], LeftOut]:
    """The members of an archive, and the hidden ones, which Macs add, as left out."""
    members = list(tar_index.members(path, within))
    shown = [m for m in members if not base(m.name).startswith(".")]
    return shown, +LeftOut({"hidden": len(members) - len(shown)})


def base(name: str) -> str:
    """The last part of a member's name; Windows separates parts by its own sign."""
    return re.split(r"[/\\]", name)[-1]
