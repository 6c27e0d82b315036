"""Labels, which no training uses: of which images they are, and which attributes have enough to judge by."""

from collections.abc import Sequence

from train.data.dataset import ImageSet, load_split

LEAST = 10  # test images with and without an attribute
TELLS = 0.7  # AUROC from which a prototype is called by an attribute


def labelled_data(run):
    """The DataConfig of a run without what restricts or ties its images."""
    return run.config.data.unbiased()


def labelled_splits(run) -> tuple[ImageSet, ImageSet, list[str]]:
    """Training and test images with their labels, not restricted by `where`, and the names of usable attributes: those
    of which the training images have both classes and the test images enough."""
    train, test = load_split(labelled_data(run), "train"), load_split(labelled_data(run), "test")
    learnt = usable_attributes([train.attributes], 1, unknown=True)[0]
    return train, test, [name for name in usable_attributes([test.attributes], LEAST)[0] if name in learnt]


def usable_attributes(tables: Sequence, least: int, unknown: bool = False) -> tuple[list[str], list[str]]:
    """Attributes that at least `least` images of every table have and as many have not, and the others.

    unknown: whether an attribute may be unknown (NaN) of some images.
    """

    def usable(name: str) -> bool:
        columns = [table[name] for table in tables]
        complete = unknown or all(column.notna().all() for column in columns)
        return complete and all((column == value).sum() >= least for column in columns for value in (0, 1))

    names = list(tables[0])
    return [name for name in names if usable(name)], [name for name in names if not usable(name)]
