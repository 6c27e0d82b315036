"""Files of results: what is promised is there or the writer is refused; what cannot be read is None."""

import numpy as np
import pandas as pd
import pytest

from analysis.schemas import Arrays, Numbers, Table, distance_of

TABLE = Table("table_{}.csv", "prototype", ("bits", "dead"))
NUMBERS = Numbers("{}.json", ("floor",))
ARRAYS = Arrays("arrays.npz", ("before", "after"))
FORMER = {"bits": "worth"}


def test_what_is_written_is_read(tmp_path):
    table = pd.DataFrame({"bits": [0.5, 2.0], "dead": [True, False]}, index=pd.Index([3, 1], name="prototype"))
    assert TABLE.write(tmp_path, table, "a").name == "table_a.csv"
    pd.testing.assert_frame_equal(TABLE.read(tmp_path, "a"), table)
    NUMBERS.write(tmp_path, {"floor": 1.5, "more": [1]}, "b")
    assert NUMBERS.read(tmp_path, "b") == {"floor": 1.5, "more": [1]}
    ARRAYS.write(tmp_path, before=np.arange(3), after=np.eye(2), more=np.zeros(1))
    arrays = ARRAYS.read(tmp_path)
    assert set(arrays) == {"before", "after"} and np.array_equal(arrays["after"], np.eye(2))


def test_a_writer_that_forgets_a_name_is_refused(tmp_path):
    with pytest.raises(KeyError, match="without dead"):
        TABLE.write(tmp_path, pd.DataFrame({"bits": [1.0]}), "a")
    with pytest.raises(KeyError, match="without floor"):
        NUMBERS.write(tmp_path, {"fid": 1.0}, "b")
    with pytest.raises(KeyError, match="arrays.npz: without after"):
        ARRAYS.write(tmp_path, before=np.arange(3))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [None, b"", b"\x00\xff", b"{", b"[1]", b"prototype,bits\n1,2\n", b"PK\x03\x04half"])
def test_what_is_missing_damaged_or_older_is_none(tmp_path, content):
    for name in ("table_a.csv", "b.json", "arrays.npz"):
        if content is not None:
            (tmp_path / name).write_bytes(content)
    assert TABLE.read(tmp_path, "a") is None and NUMBERS.read(tmp_path, "b") is None and ARRAYS.read(tmp_path) is None


def test_former_names_are_read_as_present_ones(tmp_path):
    """Records of before a name changed; where both are there, the present one counts."""
    pd.DataFrame({"prototype": [1], "worth": [2.0]}).to_csv(tmp_path / "t.csv", index=False)
    assert Table("t.csv", "prototype", ("bits",), FORMER).read(tmp_path)["bits"].tolist() == [2.0]
    (tmp_path / "n.json").write_text('{"worth": 1, "null": {"worth": 2}, "both": {"worth": 3, "bits": 4}}')
    values = Numbers("n.json", ("bits",), FORMER).read(tmp_path)
    assert values["bits"] == 1 and values["null"] == {"bits": 2} and values["both"]["bits"] == 4
    np.savez(tmp_path / "a.npz", worth=np.arange(3))
    assert Arrays("a.npz", ("bits",), FORMER).read(tmp_path)["bits"].tolist() == [0, 1, 2]


def test_the_name_of_a_distance():
    assert distance_of({"fid": 3.0, "features": "inception"}) == ("FID", 3.0)
    assert distance_of({"frechet_distance": 4.0, "features": "x"}) == ("Frechet distance (x)", 4.0)
