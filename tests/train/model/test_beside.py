"""A folder beside a run at a URL is written as one beside a run folder: ours is replaced, nothing else is, and two writers are noticed."""

from pathlib import Path

import pytest
from object_server import Proxy

from orsanet_cache import OrsanetError
from orsanet_cache.outputs import Kind, output_folder
from orsanet_cache.paths import Url
from orsanet_cache.places.bucket import Bucket
from orsanet_train.model import beside
from orsanet_train.model.beside import written
from orsanet_train.model.fetched import local_runs

NOTES = Kind("notes", {"notes.json": rb"\{", "a.txt": b"a", "b.txt": b"b"}, marks=("notes.json",))


def write(place: Url, kind: Kind | None = NOTES, **texts: str) -> None:
    with written(place, kind) as folder, output_folder(folder, kind) as staged:
        for name, text in texts.items():
            (staged / name.replace("_", ".")).write_text(text)


def there(url: str) -> dict[str, str]:
    bucket = Bucket.open(Url(url))
    return {name: bucket.read(name)[0].decode() for name in bucket.entries()}


def test_an_earlier_folder_is_replaced_and_its_mark_is_sent_last(bucket: Proxy, url: str) -> None:
    write(Url(url), a_txt="a", notes_json="{1}")
    assert there(url) == {"a.txt": "a", "notes.json": "{1}"}
    bucket.log.clear()
    write(Url(url), b_txt="b", notes_json="{2}")
    assert there(url) == {"b.txt": "b", "notes.json": "{2}"}
    assert [line.rpartition("/")[2] for line in bucket.requests("PUT")] == ["b.txt", "notes.json"]
    with pytest.raises(OrsanetError, match="no"), written(Url(url), NOTES):
        raise OrsanetError("no")
    assert there(url) == {"b.txt": "b", "notes.json": "{2}"}


def test_what_is_not_ours_stays(bucket: Proxy, url: str) -> None:
    objects = Bucket.open(Url(url))
    objects.write("b.txt", b"somebody's")
    with pytest.raises(OrsanetError, match=f"{url}/b.txt: is not a file of notes, so nothing in {url} was replaced"):
        write(Url(url), notes_json="{1}")
    with pytest.raises(OrsanetError, match=f"{url}/b.txt: is in the way, so nothing was replaced"):
        write(Url(url), None, notes_json="{1}")
    objects.write("thesis/a.pdf", b"somebody's")
    with pytest.raises(OrsanetError, match=f"{url}/thesis/a.pdf: is in the way"):
        write(Url(url), notes_json="{1}")
    assert there(url) == {"b.txt": "somebody's", "thesis/a.pdf": "somebody's"}
    write(Url(f"{url}/new"), None, a_txt="a")
    assert there(f"{url}/new") == {"a.txt": "a"}


@pytest.mark.parametrize("when", ["while it is made", "while it is sent"])
def test_another_writer_is_noticed(bucket: Proxy, url: str, when: str) -> None:
    def other(line: str) -> None:
        if "PUT" in line:
            bucket.before = lambda _: None
            Bucket.open(Url(url)).write("a.txt", b"another")

    def make() -> None:
        with written(Url(url), NOTES) as folder:
            if when == "while it is made":
                other("PUT")
            else:
                bucket.before = other
            folder.mkdir()
            (folder / "notes.json").write_text("{}")

    with pytest.raises(OrsanetError, match="another command writes there too"):
        make()


def test_large_files_are_sent_in_parts(bucket: Proxy, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "PARTS", 0)
    write(Url(url), notes_json="{}")
    assert there(url) == {"notes.json": "{}"}
    assert bucket.requests("POST .*uploadId")


def test_runs_are_fetched_with_what_is_read_of_them(bucket: Proxy, url: str, tmp_path: Path) -> None:
    wanted = ("run.json", "best.safetensors", "evaluation-best/evaluation.json", "seed-3/config.toml")
    others = (
        "last.safetensors",
        "checkpoints/00000001-000000/state.json",
        "evaluation-last/evaluation.json",
        "report-best/a",
    )
    for place in ("one", "other/one"):
        for name in (*wanted, *others):
            Bucket.open(Url(f"{url}/{place}")).write(name, place.encode())
    runs = [Url(f"{url}/one"), tmp_path, Url(f"{url}/other/one")]
    with local_runs(runs, "best") as folders:
        assert folders[1] == tmp_path
        assert (folders[0].name, folders[2].name) == (f"{url.removeprefix('s3://').replace('/', '-')}-one", "one")
        for folder in folders[::2]:
            found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
            assert found == {*wanted}
        assert (folders[2] / "run.json").read_text() == "other/one"
    assert not folders[0].exists()
    with (
        pytest.raises(OrsanetError, match=f"{url}/none: there is no run at this URL"),
        local_runs([Url(f"{url}/none")], "best"),
    ):
        pass
