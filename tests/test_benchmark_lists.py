"""The benchmark of long lists, with few images: its lists are those that it says."""

from pathlib import Path

import pytest

EXPERIMENTS = Path(__file__).parent.parent / "experiments"


@pytest.fixture(scope="module")
def benchmark():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXPERIMENTS)
        from benchmarks import lists

        yield lists


@pytest.mark.parametrize("form", ["list.csv", "list.txt", "list.jsonl", "list.json"])
@pytest.mark.parametrize(("per_class", "classes"), [(0, 3), (2, 6)])
def test_lists_of_the_benchmark(benchmark, tmp_path, form, per_class, classes):
    benchmark.make(tmp_path, folders=3, images=4)
    write, _ = benchmark.FORMS[form]
    file = tmp_path / form
    file.write_text(write(benchmark.entries(3, 4, per_class)))
    seconds, own, found = benchmark.read(tmp_path, file)
    assert found == classes and seconds > 0 and own > 0
    file.write_text(file.read_text().replace("n00000002/3.JPEG", "n00000002/9.JPEG"))
    with pytest.raises(FileNotFoundError, match="1 of the 12 images .*: n00000002/9.JPEG"):
        benchmark.read(tmp_path, file)
