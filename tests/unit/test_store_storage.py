"""Storage: exclusive creation, durable sync, envelopes that do not open when touched, keys that rotate."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.core import Landed
from headrace.errors import ConfigError, Corrupt
from headrace.store import storage as storage_module
from headrace.store.cipher import SEGMENT, Cipher
from headrace.store.storage import LocalStorage, create_exclusive, scratch_folder, sync_files

KEYS = {"k1": "11" * 32, "k2": "22" * 32}


def landed(key: str, data: bytes, key_id: str | None = None) -> Landed:
    return Landed(key, "x.csv", len(data), hashlib.sha256(data).hexdigest(), None, {}, key_id=key_id)


def test_of_many_creators_exactly_one_wins(tmp_path: Path) -> None:
    path = tmp_path / "records" / "1.json"
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda n: create_exclusive(path, f"writer {n}".encode()), range(64)))
    assert won.count(True) == 1
    assert path.read_text() == f"writer {won.index(True)}"
    assert [item.name for item in path.parent.iterdir()] == ["1.json"], "no temporary file is left"


def test_of_many_processes_exactly_one_wins(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from headrace.store.storage import create_exclusive;"
        "print(create_exclusive(Path(sys.argv[1]), sys.argv[2].encode()))"
    )
    target = tmp_path / "1.json"
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(target), str(n)], stdout=subprocess.PIPE, text=True)
        for n in range(4)
    ]
    answers = [process.communicate()[0].strip() for process in running]
    assert answers.count("True") == 1
    assert target.read_text() == str(answers.index("True"))


def test_a_created_object_is_synced_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, link = os.fsync, os.link

    def spy_fsync(handle: int) -> None:
        events.append("sync folder" if Path(f"/proc/self/fd/{handle}").is_dir() else "sync file")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "link", lambda *names: (events.append("link"), link(*names))[1])
    create_exclusive(tmp_path / "a.json", b"{}")
    assert events == ["sync file", "link", "sync folder"]


def test_sync_covers_files_and_every_folder_up_to_the_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(storage_module, "_fsync", synced.append)
    sync_files([tmp_path / "a" / "b" / "x", tmp_path / "a" / "y"], tmp_path)
    assert set(synced) == {tmp_path / "a/b/x", tmp_path / "a/y", tmp_path / "a/b", tmp_path / "a", tmp_path}
    assert synced.index(tmp_path / "a/b/x") < synced.index(tmp_path / "a/b") < synced.index(tmp_path)


def test_many_files_cost_one_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Path] = []
    monkeypatch.setattr(storage_module, "_syncfs", calls.append)
    sync_files([tmp_path / str(n) for n in range(1000)], tmp_path)
    assert calls == [tmp_path]


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def broken():
        yield b"half"
        raise OSError("disk")

    store = LocalStorage(tmp_path)
    with pytest.raises(OSError, match="disk"):
        store.write("bronze/a", broken())
    assert store.list("bronze") == []


@pytest.mark.parametrize("key", ["../x", "/etc/passwd", "a/../../b"])
def test_a_key_never_leaves_the_lake(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match="leaves the lake"):
        LocalStorage(tmp_path).path(key)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.binary(max_size=2000), max_size=5), st.sampled_from([0, SEGMENT - 1, SEGMENT, SEGMENT + 1])
)
def test_an_envelope_gives_back_its_bytes(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes], pad: int
) -> None:
    store = LocalStorage(tmp_path_factory.mktemp("lake"), Cipher("k1", KEYS))
    data = b"".join(chunks) + bytes(pad)
    store.write("a", [*chunks, bytes(pad)])
    assert store.read("a") == data
    assert len(data) < 16 or data not in (store.root / "a").read_bytes()


@pytest.mark.parametrize("harm", ["flip", "cut segment", "cut byte", "swap", "extend"])
def test_a_touched_envelope_does_not_open(tmp_path: Path, harm: str) -> None:
    store = LocalStorage(tmp_path, Cipher("k1", KEYS))
    store.write("a", [os.urandom(3 * SEGMENT)])
    path = tmp_path / "a"
    sealed = bytearray(path.read_bytes())
    head, step = len(sealed) - 3 * (SEGMENT + 16), SEGMENT + 16
    if harm == "flip":
        sealed[head + step + 5] ^= 1
    elif harm == "cut segment":
        del sealed[-step:]
    elif harm == "cut byte":
        del sealed[-1:]
    elif harm == "swap":
        sealed[head : head + 2 * step] = sealed[head + step : head + 2 * step] + sealed[head : head + step]
    else:
        sealed += b"x"
    path.write_bytes(sealed)
    with pytest.raises(Corrupt):
        store.read("a")


def test_keys_rotate_and_old_ones_stay_readable(tmp_path: Path) -> None:
    LocalStorage(tmp_path, Cipher("k1", KEYS)).write("a", [b"secret" * 1000])
    body = (tmp_path / "a").read_bytes()[-2000:]
    store = LocalStorage(tmp_path, Cipher("k2", KEYS))
    assert store.read("a") == b"secret" * 1000
    assert store.rewrap("a")
    assert not store.rewrap("a"), "it is under the current key now"
    assert (tmp_path / "a").read_bytes()[-2000:] == body, "only the header changed"
    assert LocalStorage(tmp_path, Cipher("k2", {"k2": KEYS["k2"]})).read("a") == b"secret" * 1000
    with pytest.raises(ConfigError, match="`k2`, which is not configured"):
        LocalStorage(tmp_path, Cipher("k1", {"k1": KEYS["k1"]})).read("a")
    with pytest.raises(ConfigError, match="no key is configured"):
        LocalStorage(tmp_path).read("a")


@pytest.mark.parametrize("cipher", [None, Cipher("k1", KEYS)])
def test_changed_bytes_of_a_landed_object_are_found(tmp_path: Path, cipher: Cipher | None) -> None:
    store = LocalStorage(tmp_path / "lake", cipher)
    store.write("a", [b"1,2\n"])
    item = landed("a", b"1,2\n", cipher and cipher.current)
    assert store.checked(item, tmp_path / "scratch").read_bytes() == b"1,2\n"
    store.delete(["a"])
    store.write("a", [b"1,3\n"])
    with pytest.raises(Corrupt, match="sha256"):
        store.checked(item, tmp_path / "scratch")


def test_a_missing_object_says_so(tmp_path: Path) -> None:
    with pytest.raises(Corrupt, match="gone from the lake"):
        LocalStorage(tmp_path).read("bronze/x")


def test_scratch_is_gone_however_the_block_ends(tmp_path: Path) -> None:
    def fail_inside() -> None:
        with scratch_folder(tmp_path) as folder:
            (folder / "x").write_text("x")
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "abc", "11" * 31, "zz" * 32])
def test_a_key_that_is_not_32_bytes_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="32 bytes"):
        Cipher("k", {"k": text})


def test_a_lake_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "lake"):
        with pytest.raises(ConfigError, match=f"the lake {place} cannot be made") as caught:
            LocalStorage(place)
        assert "lake:" in str(caught.value.hint)
