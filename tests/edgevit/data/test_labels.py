import pytest

from edgevit.data.labels import read_labels, require_one_line
from edgevit.errors import UsageError


def test_labels_are_lines_in_order(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("naïve \n猫\n\n", encoding="utf-8")
    assert read_labels(path) == ("naïve", "猫")
    require_one_line(read_labels(path))


@pytest.mark.parametrize("label", ["a\nb", "a\r", "\x1b[2J", "a\u202eb", "\u2067a", "a\u2028", "\u200f"])
def test_label_that_would_not_show_as_it_is_is_refused(label):
    with pytest.raises(UsageError, match="line break, control or direction character"):
        require_one_line(("plain", label))


def test_empty_and_missing_files_are_refused(tmp_path):
    (tmp_path / "labels.txt").write_text(" \n")
    for name in ("labels.txt", "none.txt"):
        with pytest.raises(UsageError):
            read_labels(tmp_path / name)
