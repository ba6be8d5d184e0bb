"""A layer of the network as a row: the numbers that figure 2 of the paper gives it.

A network is a mapping from layer names to rows: `conv1` to `convK`, then `fcK+1` to
`fcN`; a locally connected layer is called `local3` where it is the third. `then` of a
row lists what follows the layer's linear operation, in order:

    activation      the network's non-linearity (section 3.1)
    norm            local response normalisation (section 3.3)
    same_map_norm   the 2012 code's second normalisation, directly behind `norm`
    pool            max pooling (section 3.4)
    average_pool    the mean in the place of the maximum
    dropout         dropout (section 4.2)
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from string import ascii_lowercase, digits

from alexnet_jax.runtime.errors import InputError, check_number


POOLS = ("pool", "average_pool")
AFTER_CONV = ("activation", "norm", "same_map_norm", *POOLS, "dropout")
AFTER_DENSE = ("activation", "dropout")
# What the values after a step are called, beside the layer's number.
FEATURES = {"norm": "norm", "same_map_norm": "norm", **dict.fromkeys(POOLS, "pool")}


@dataclasses.dataclass(frozen=True)
class Conv:
    """A convolution, and what follows it.

    Attributes:
      channels: kernels, of all towers together.
      kernel: side of a kernel, in values.
      stride: distance between windows. With a stride above 1 the input is padded with
        zeros at the right and bottom up to the next whole stride, as in the 2012 code
        (224 becomes 227). With stride 1 the size is kept, and kernels must be odd.
      exchange: whether the layer sees the features of every tower (figure 2: conv3).
      then: what follows, in order: `activation`, and any of `norm`, `same_map_norm`,
        `pool` or `average_pool`, and `dropout`.
      kernel_std: standard deviation of the initial kernels (section 5).
      bias: initial bias (section 5).
    """

    channels: int
    kernel: int
    _: dataclasses.KW_ONLY
    stride: int = 1
    exchange: bool = False
    then: tuple[str, ...] = ("activation",)
    kernel_std: float = 0.01
    bias: float = 0.0

    def check(self, key: str, towers: int = 1) -> None:
        """Raise an InputError where a value of the row called `key` is wrong."""
        check_number(f"{key}.channels", self.channels, least=1, whole=True)
        _check_divides(f"{key}.channels", self.channels, towers)
        check_number(f"{key}.kernel", self.kernel, least=1, whole=True)
        check_number(f"{key}.stride", self.stride, least=1, whole=True)
        if self.stride == 1 and self.kernel % 2 == 0:
            raise InputError(
                f"{key}.kernel={self.kernel} must be odd where {key}.stride is 1, "
                "to keep the size"
            )
        _check_initial(key, self)
        _check_then(key, self.then, AFTER_CONV)


@dataclasses.dataclass(frozen=True)
class Local(Conv):
    """A locally connected layer: a convolution with kernels and biases of its own at
    each place, as in the 2012 code's examples for CIFAR-10. Its stride is 1."""

    def check(self, key: str, towers: int = 1) -> None:
        """Raise an InputError where a value of the row called `key` is wrong."""
        super().check(key, towers)
        if self.stride != 1:
            raise InputError(
                f"{key}.stride={self.stride} must be 1: the layer is locally connected"
            )


@dataclasses.dataclass(frozen=True)
class Dense:
    """A fully connected layer, and what follows it.

    Attributes:
      width: outputs, of all towers together. None in the last row, which has one output
        a class: the logits.
      exchange: whether the layer sees the features of every tower (figure 2: fc6 and
        fc7). The last layer adds up the towers' partial products instead.
      then: what follows, in order: `activation`, and `dropout` or not. Empty in the
        last row.
      kernel_std: standard deviation of the initial kernels (section 5).
      bias: initial bias (section 5).
    """

    width: int | None = None
    _: dataclasses.KW_ONLY
    exchange: bool = False
    then: tuple[str, ...] = ("activation", "dropout")
    kernel_std: float = 0.01
    bias: float = 0.0

    def check(self, key: str, towers: int = 1) -> None:
        """Raise an InputError where a value of the row called `key` is wrong."""
        check_number(f"{key}.width", self.width, least=1, whole=True)
        _check_divides(f"{key}.width", self.width or 0, towers)
        _check_initial(key, self)
        _check_then(key, self.then, AFTER_DENSE)

    def check_last(self, key: str) -> None:
        """The same for the last row, whose width is the number of classes."""
        if self.width is not None:
            raise InputError(
                f"{key}.width={self.width!r} must be None: the last layer has one "
                "output a class"
            )
        if self.exchange or self.then:
            raise InputError(
                f"{key} is the last layer: {key}.exchange must be False and "
                f"{key}.then empty"
            )
        _check_initial(key, self)


Row = Conv | Local | Dense
Rows = Mapping[str, Row]
_KINDS: dict[str, type[Row]] = {"conv": Conv, "local": Local, "fc": Dense}
_NAME = re.compile(rf"({'|'.join(_KINDS)})[1-9][0-9]*")


def _check_divides(key: str, width: int, towers: int) -> None:
    if width % towers:
        raise InputError(f"{key}={width} does not divide over {towers} towers")


def _check_initial(key: str, row: Row) -> None:
    check_number(f"{key}.kernel_std", row.kernel_std)
    check_number(f"{key}.bias", row.bias, least=-math.inf)


def _check_then(key: str, then: tuple[str, ...], known: tuple[str, ...]) -> None:
    key = f"{key}.then"
    if unknown := [step for step in then if step not in known]:
        raise InputError(
            f"{key} names {', '.join(map(str, unknown))}; "
            f"choose from {', '.join(known)}"
        )
    if len(set(then)) < len(then):
        raise InputError(f"{key}={then} names a step twice")
    if set(POOLS) <= set(then):
        raise InputError(f"{key}={then} pools twice")
    if "activation" not in then:
        raise InputError(f"{key}={then} lacks activation")
    neighbours = zip(("", *then), then, strict=False)
    if "same_map_norm" in then and ("norm", "same_map_norm") not in neighbours:
        raise InputError(f"{key}={then} must have same_map_norm directly behind norm")


def as_rows(layers: Mapping[str, object], towers: int = 1) -> dict[str, Row]:
    """Rows in the order of their numbers; plain mappings, as of a config, become rows.

    Raises:
      InputError: if names are not `conv1` to `convK`, then `fcK+1` to `fcN`, if a row
        has an unknown key or lacks one, a value is wrong, or a width does not divide
        over the towers.
    """
    names = _in_order(layers)
    rows = {name: _as_row(f"model.layers.{name}", layers[name]) for name in names}
    for name, row in rows.items():
        key = f"model.layers.{name}"
        if name == names[-1] and isinstance(row, Dense):
            row.check_last(key)
        else:
            row.check(key, towers)
    return rows


def _in_order(names: Iterable[str]) -> list[str]:
    for name in names:
        if not _NAME.fullmatch(str(name)):
            raise InputError(
                f"model.layers.{name} is no name of a layer; layers are conv1, conv2 "
                "and so on (local3 for a locally connected one), then fc6 and so on"
            )
    ordered = sorted(names, key=lambda name: int(name.lstrip(ascii_lowercase)))
    kinds = sorted(map(_kind, ordered), key=lambda kind: kind is Dense)
    expected = _numbered(kinds)
    if ordered != expected or kinds[-1:] != [Dense]:
        raise InputError(
            f"model.layers are named {', '.join(ordered)}; layers are counted without "
            f"a gap, convolutions first: {', '.join(expected)}, and the last is an fc"
        )
    return ordered


def _kind(name: str) -> type[Row]:
    return _KINDS[name.rstrip(digits)]


def _as_row(key: str, row: object) -> Row:
    kind = _kind(key.rpartition(".")[2])
    if type(row) is kind:
        return row
    if isinstance(row, Conv | Dense):
        raise InputError(f"{key} must be a {kind.__name__}, not {row!r}")
    if not isinstance(row, Mapping):
        raise InputError(f"{key}={row!r:.40} must be a mapping of a row's keys")
    fields = {f.name: f.default for f in dataclasses.fields(kind)}
    if unknown := [name for name in row if name not in fields]:
        known = ", ".join(fields)
        raise InputError(f"{key}.{unknown[0]} is unknown; choose from {known}")
    for name, default in fields.items():
        if default is dataclasses.MISSING and name not in row:
            raise InputError(f"{key}.{name} is missing")
    then = row.get("then", kind.then)
    if not isinstance(then, list | tuple):
        raise InputError(f"{key}.then={then!r:.40} must be a tuple")
    return kind(**{**row, "then": tuple(then)})


def _numbered(kinds: Iterable[type[Row]]) -> list[str]:
    names = {kind: name for name, kind in _KINDS.items()}
    return [f"{names[kind]}{number}" for number, kind in enumerate(kinds, start=1)]


def numbered(rows: Iterable[Row]) -> dict[str, Row]:
    """Rows by name, named by their place: convolutions first."""
    rows = list(rows)
    return dict(zip(_numbered(map(type, rows)), rows, strict=True))


def changed(rows: Rows, **fields: Mapping[str, object]) -> dict[str, Row]:
    """Rows of which some have other values.

    >>> louder = changed(CODE2012, conv3={"kernel_std": 0.05}, fc6={"width": 2048})

    Raises:
      InputError: if there is no such row.
    """
    if unknown := [name for name in fields if name not in rows]:
        raise InputError(f"no layer {unknown[0]}; choose from {', '.join(rows)}")
    return {
        name: dataclasses.replace(row, **fields.get(name, {}))
        for name, row in rows.items()
    }


def without(rows: Rows, name: str) -> dict[str, Row]:
    """Rows without one of them; later layers move up a number."""
    return numbered(row for other, row in rows.items() if other != name)


def feature_names(layers: Mapping[str, Row]) -> tuple[str, ...]:
    """The names of the values that can be asked of a network, in order; see
    `AlexNet.features`."""
    names: list[str] = []
    for number, (name, row) in enumerate(layers.items(), start=1):
        if not row.then:
            return (*names, name)
        names.append(f"{name}.linear")
        for step in row.then:
            if step == "activation":
                names.append(name)
            elif (feature := f"{FEATURES.get(step)}{number}") not in names:
                names += [feature] if step in FEATURES else []
    return tuple(names)
