"""Files that are written whole."""

from alexnet_jax.runtime import atomic


def test_a_name_that_is_not_utf_8_is_written_with_escapes(tmp_path):
    atomic.replace(tmp_path / "page.html", "data of r\udce9sum\u00e9")
    written = (tmp_path / "page.html").read_bytes()
    assert written.decode("utf-8") == "data of r\\udce9sum\u00e9"
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
