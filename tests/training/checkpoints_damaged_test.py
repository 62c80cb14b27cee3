"""What may happen to a directory of checkpoints: damage, copies, foreign files, leftovers."""

import random
import shutil
import tempfile
from pathlib import Path

import pytest

from relpos.errors import UserError
from relpos.training.checkpoints import CheckpointError, Checkpoints
from tests.training.powerless import powerless
from tests.training.states import make_state


def write_two(workdir, batches):
    """Saves steps 40 and 50, of which no number is the other's; returns their directory."""
    checkpoints = Checkpoints(workdir)
    for step in (40, 50):
        checkpoints.save(step, make_state(step, 2), batches, {"window": {}})
    checkpoints.close()
    return workdir / "checkpoints"


def complaint(workdir, batches, step=50, model_only=False):
    """Returns what restoring says, which is one line."""
    reader = Checkpoints(workdir, read_only=True)
    state = make_state(0, 2)
    with pytest.raises(CheckpointError) as caught:  # noqa: PT012
        if model_only:
            reader.restore_model(step, state[0])
        else:
            reader.restore(step, state, batches)
    reader.close()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("model_only", [False, True])
def test_a_flipped_bit_is_named_wherever_it_is(tmp_path, batches, model_only):
    """24 in files of arrays, 24 in any file; before there were checksums, most went unseen."""
    folder = write_two(tmp_path, batches) / "50"
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    arrays = [path for path in files if path.parent.name == "d"]
    assert len(arrays) >= 6
    choose = random.Random(int(model_only))
    for path in choose.choices(arrays, k=24) + choose.choices(files, k=24):
        content = path.read_bytes()
        damaged = bytearray(content)
        damaged[choose.randrange(len(content))] ^= 1 << choose.randrange(8)
        path.write_bytes(damaged)
        said = complaint(tmp_path, batches, model_only=model_only)
        assert f": {path.relative_to(folder).as_posix()!r} is damaged; remove " in said
        assert said.endswith("50' to use step 40")
        path.write_bytes(content)
    reader = Checkpoints(tmp_path, read_only=True)
    reader.restore(50, make_state(0, 2), batches)
    reader.close()


def test_a_file_that_is_missing_or_was_added_is_named(tmp_path, batches):
    folder = write_two(tmp_path, batches) / "50"
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        path.rename(tmp_path / "elsewhere")
        assert f"{name!r} is missing" in complaint(tmp_path, batches)
        (tmp_path / "elsewhere").rename(path)
    (folder / "model" / "notes.txt").write_text("mine")
    assert "'model/notes.txt' was added" in complaint(tmp_path, batches)


def test_a_file_without_the_right_to_read_is_named(batches):
    with tempfile.TemporaryDirectory() as name:  # nobody may not enter tmp_path
        Path(name).chmod(0o755)
        file = write_two(Path(name), batches) / "50" / "model" / "manifest.ocdbt"
        file.chmod(0)
        with powerless():
            said = complaint(Path(name), batches)
            assert f"cannot read '{file}': Permission denied" in said
        file.parents[1].chmod(0)
        with powerless(), pytest.raises(CheckpointError, match=r"50/.*': Permission denied"):
            Checkpoints(Path(name), read_only=True)
        file.parents[1].chmod(0o755)


def test_a_copy_under_another_name_is_refused(tmp_path, batches):
    directory = write_two(tmp_path, batches)
    for name in ("60", "99999999999999999999"):
        shutil.copytree(directory / "40", directory / name)
        said = complaint(tmp_path, batches, int(name))
        assert "it is step 40 under another name" in said
        assert f"remove {str(directory / name)!r} to use step" in said
        reader = Checkpoints(tmp_path, read_only=True)
        assert reader.latest_step() == int(name)
        reader.close()
        shutil.rmtree(directory / name)
    (directory / "40").rename(directory / "45")
    assert f"rename it to {str(directory / '40')!r}; remove" in complaint(tmp_path, batches, 45)


def test_what_is_not_ours_is_left_alone(tmp_path, batches):
    directory = tmp_path / "checkpoints"
    for name in ("7", "45", "007", "99999999999999999999", "²", "backup", "tmp"):
        (directory / name).mkdir(parents=True)
        (directory / name / "precious").write_text("mine")
    (directory / "46").write_text("a file")
    write_two(tmp_path, batches)
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest_step() == 50
    with pytest.raises(UserError, match=r"no checkpoint of step 45 in .* there are \[40, 50\]"):
        checkpoints.restore(45, make_state(0, 2), batches)
    checkpoints.save(51, make_state(0, 2), batches, {})
    checkpoints.wait()
    assert sorted(path.name for path in directory.iterdir()) == [
        "007", "45", "46", "50", "51", "7", "99999999999999999999", "backup", "tmp", "²",
    ]  # fmt: skip
    assert len(list(directory.rglob("precious"))) == 7
    (directory / "52").mkdir()
    with pytest.raises(
        CheckpointError, match=r"last complete one is step 51.*52' is in the way, move it elsewhere"
    ):
        checkpoints.save(52, make_state(0, 2), batches, {})
    checkpoints.close()


def test_a_removal_that_is_cut_short_leaves_no_checkpoint(tmp_path, batches, monkeypatch):
    directory = write_two(tmp_path, batches)

    def die(folder):
        (folder / "checksums.json").unlink()
        raise OSError(5, "the power went")

    monkeypatch.setattr(shutil, "rmtree", die)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(60, make_state(0, 2), batches, {})
    with pytest.raises(CheckpointError, match=r"last complete one is step 60.*the power went"):
        checkpoints.wait()
    checkpoints.close()
    monkeypatch.undo()
    reader = Checkpoints(tmp_path, read_only=True)
    with pytest.raises(UserError, match=r"there are \[50, 60\]"):
        reader.restore(40, make_state(0, 2), batches)
    reader.close()
    (directory / "70.orbax-checkpoint-tmp" / "model").mkdir(parents=True)
    (directory / ".70.incomplete.orbax-checkpoint-tmp").mkdir()
    Checkpoints(tmp_path, read_only=True).close()
    assert len(list(directory.iterdir())) == 5
    Checkpoints(tmp_path).close()
    assert sorted(path.name for path in directory.iterdir()) == ["50", "60"]


def test_a_file_in_the_place_of_the_directory_is_an_error(tmp_path):
    (tmp_path / "checkpoints").write_text("precious")
    for read_only in (False, True):
        with pytest.raises(CheckpointError, match=r"cannot use '.*checkpoints'"):
            Checkpoints(tmp_path, read_only)
