"""Sources without the examples that can't be read, or with others in their place."""

import dataclasses
from collections.abc import Collection, Iterable, Iterator

import numpy as np
from jaxtyping import Integer

from alexnet_jax.data.dataset import Example, Source
from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class SelectedSource(Source):
    """Some examples of a source.

    Attributes:
      source: all examples.
      indices: those that are kept, by their number.
    """

    source: Source
    indices: Integer[np.ndarray, " examples"] = dataclasses.field(repr=False)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Example:
        return self.source[int(self.indices[index])]

    def label(self, index: int) -> int:
        """The example's class, found without decoding its image."""
        return self.source.label(int(self.indices[index]))

    def name(self, index: int) -> str:
        """The example's name."""
        return self.source.name(int(self.indices[index]))

    def where(self, index: int) -> str:
        """Where the example is read from."""
        return self.source.where(int(self.indices[index]))


def without(source: Source, names: Iterable[str]) -> Source:
    """A source without the examples of these names."""
    left_out = set(names)
    if not left_out:
        return source
    kept = [i for i in range(len(source)) if source.name(i) not in left_out]
    return SelectedSource(source, np.asarray(kept, np.int64))


def lost_classes(source: Source, unreadable: Collection[int]) -> list[int]:
    """The classes of which no example is left without those that can't be read, given
    by their numbers. Where the class can't be read either, it is none of them."""

    def label(index: int) -> int | None:
        try:
            return source.label(index)
        except InputError:
            return None

    lost = {label(index) for index in unreadable} - {None}
    for index in range(len(source)):
        # Some sources read an example for its class.
        if not lost:
            break
        if index not in unreadable:
            lost.discard(label(index))
    return sorted(number for number in lost if number is not None)


class WrappedSource(Source):
    """The examples of another source, for subclasses that read them in another way."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        return self.source[index]

    def label(self, index: int) -> int:
        """The example's class, found without decoding its image."""
        return self.source.label(index)

    def name(self, index: int) -> str:
        """The example's name."""
        return self.source.name(index)

    def where(self, index: int) -> str:
        """Where the example is read from."""
        return self.source.where(index)


class ReplacingSource(WrappedSource):
    """A source in which the next example of the same class that can be read, by number,
    takes the place of one that can't.

    So the number of examples and the places of all others stay, and with them what a
    run computes from then on. A replaced example is named in a warning, once in each
    process.
    """

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._said: set[int] = set()

    def __getitem__(self, index: int) -> Example:
        try:
            return self.source[index]
        except InputError as error:
            return self._next(index, error)

    def _next(self, index: int, error: InputError) -> Example:
        for other in self._others(index):
            try:
                example = self.source[other]
            except InputError:
                continue
            if index not in self._said:
                self._said.add(index)
                where = self.source.where(other)
                progress.say(f"warning: {error}; {where} takes its place")
            return example
        raise error

    def _others(self, index: int) -> Iterator[int]:
        """The other examples of the class, from the next one on and around the end."""
        label, count = self.source.label(index), len(self)
        for distance in range(1, count):
            other = (index + distance) % count
            if self.source.label(other) == label:
                yield other
