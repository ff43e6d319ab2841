"""Files are known by their content; the commands say what each is for."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from weights_files import published_landmarks, sha256, small_segmenter

from orsanet_cache import FrozenPriors, OrsanetError
from orsanet_cache.commands.weights import weights
from orsanet_cache.frozen.loading import read_weights, tensors_digest
from orsanet_cache.weights.convert import convert_weights, identify
from orsanet_cache.weights.sources import SOURCES, default_folder, fingerprint


def test_a_known_file_is_named_by_its_content_whatever_it_is_called(tmp_path: Path) -> None:
    path = published_landmarks(tmp_path / "renamed.bin")
    known = {**SOURCES, "mobilefacenet": replace(SOURCES["mobilefacenet"], sha256=fingerprint(path).sha256)}
    assert identify(path, known) == ("mobilefacenet: exactly the published MobileFaceNet, 68 landmarks, " + known["mobilefacenet"].file_name, None)  # fmt: skip
    convert_weights(path, tmp_path / "b.safetensors")
    assert "converted from the published MobileFaceNet" in identify(tmp_path / "b.safetensors", known).what
    with pytest.raises(OrsanetError, match="its origin's SHA-256 is"):  # converted, but not from the file in SOURCES
        identify(tmp_path / "b.safetensors")


def test_a_damaged_download_is_named_by_its_name_with_size_and_digest(tmp_path: Path) -> None:
    name = SOURCES["mobilefacenet"].file_name
    whole_file = published_landmarks(tmp_path / "whole.pth").read_bytes()
    (tmp_path / name).write_bytes(whole_file[:-1000])
    with pytest.raises(OrsanetError) as refused:
        identify(tmp_path / name)
    assert f"it has {len(whole_file) - 1000:,} bytes, not 12,281,146" in str(refused.value)
    assert sha256(whole_file[:-1000]) in str(refused.value)


def test_where_only_a_copys_digest_is_known_another_one_is_doubted_and_not_refused(
    ir50_files: tuple[Path, Path],
) -> None:
    digest = fingerprint(ir50_files[0]).sha256
    for file in ir50_files:
        what, doubt = identify(file)
        assert what == "ir50: fits IR50 tensor by tensor"
        assert doubt is not None
        assert digest in doubt
    exactly = identify(ir50_files[0], {**SOURCES, "ir50": replace(SOURCES["ir50"], sha256=digest)})
    assert exactly.what.startswith("ir50: exactly")
    assert exactly.doubt is not None  # the authors give no digest


def test_real_landmark_weights_are_told_apart_from_the_published_file_and_convert_to_the_same_recipe(
    shared: Path, tmp_path: Path
) -> None:
    real = shared / "landmark_weights" / "mobilefacenet_model_best.pth.tar"
    with pytest.raises(OrsanetError) as refused:
        identify(real)
    assert "fits MobileFaceNet tensor by tensor" in str(refused.value)
    assert f"it has {real.stat().st_size:,} bytes, not 12,281,146" in str(refused.value)

    out = tmp_path / "landmarks.safetensors"
    convert_weights(real, out)
    segmenter = small_segmenter(tmp_path / "segmenter.safetensors")
    assert FrozenPriors.load(segmenter, out).recipe() == FrozenPriors.load(segmenter, real).recipe()
    plain = read_weights(shared / "landmark_weights" / "mobilefacenet_68pt.safetensors")
    assert tensors_digest(read_weights(out).tensors) == tensors_digest(plain.tensors)
    known = {**SOURCES, "mobilefacenet": replace(SOURCES["mobilefacenet"], sha256=fingerprint(real).sha256)}
    assert identify(real, known).what.startswith("mobilefacenet: exactly")


def test_list_says_of_every_file_what_it_is_for_and_whether_it_is_there(tmp_path: Path) -> None:
    (tmp_path / "mobilefacenet_model_best.pth.tar").write_bytes(b"another")
    result = CliRunner().invoke(weights, ["list", str(tmp_path)])
    assert result.exit_code == 0
    for name, published in SOURCES.items():
        for said in (name, published.purpose, published.about, published.licence, published.origin, published.sha256):
            assert said in result.output
    states = [line.split("state    ")[1] for line in result.output.splitlines() if "state    " in line]
    assert states[0] == "absent"
    assert states[1].startswith("DIFFERENT FILE: it has 7 bytes, not 12,281,146")
    assert SOURCES["ir50"].instructions in states[2]


def test_the_weights_folder_is_the_users_cache_unless_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "orsanet" / "weights"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".cache" / "orsanet" / "weights"


def test_convert_warns_of_weights_that_fit_and_are_not_the_published_ones(tmp_path: Path) -> None:
    landmarks, out = published_landmarks(tmp_path / "landmarks.pth.tar"), tmp_path / "b.safetensors"
    result = CliRunner().invoke(weights, ["convert", str(landmarks), "--out", str(out)])
    assert result.exit_code == 0
    assert f"warning: {landmarks} fits MobileFaceNet" in result.stderr
    assert f"wrote {out}: mobilefacenet, {out.stat().st_size:,} bytes" in result.stdout


def test_verify_of_an_unproven_copy_succeeds_with_a_warning(ir50_files: tuple[Path, Path]) -> None:
    result = CliRunner().invoke(weights, ["verify", str(ir50_files[1])])
    assert result.exit_code == 0
    assert "ir50: fits IR50" in result.stdout
    assert "warning: " in result.stderr


def test_help_and_list_need_neither_torch_nor_the_hub(tmp_path: Path) -> None:
    script = (
        "import sys; from orsanet_cache.commands.weights import weights; "
        f"weights(['list', {str(tmp_path)!r}], standalone_mode=False); "
        "print({'torch', 'huggingface_hub', 'httpx2'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "set()"
