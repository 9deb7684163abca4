"""`[[mounts.NAME.subtree]]` of the config file."""

from pathlib import Path

import pytest

from mountd.config import CopiedSubtree
from mountd.config.file import ConfigFile, load_config
from mountd.config.load import CommandLine, plan_mount
from mountd.errors import UsageError

MOUNT = '[mounts.data]\nsource = "s3://lab"\nmountpoint = "/storage"\n'


def read(tmp_path: Path, text: str) -> ConfigFile:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return load_config(path)


def test_a_mount_has_the_subtrees_that_its_file_names(tmp_path: Path) -> None:
    text = (
        MOUNT
        + '[[mounts.data.subtree]]\npath = "/sets//x/"\nmode = "copy"\n'
        + '[[mounts.data.subtree]]\npath = ""\nmode = "copy"\nrecheck_s = 60\n'
    )
    plan = plan_mount("data", None, read(tmp_path, text), CommandLine({}, {}), {})
    assert plan.copies == (CopiedSubtree("sets/x", 300.0), CopiedSubtree("", 60.0))


def test_a_mount_without_them_has_none(tmp_path: Path) -> None:
    config = read(tmp_path, MOUNT)
    assert plan_mount("data", None, config, CommandLine({}, {}), {}).copies == ()
    assert plan_mount("s3://lab", "/storage", config, CommandLine({}, {}), {}).copies == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[[mounts.data.subtree]]\npath = "x"\n', "mode takes"),
        ('[[mounts.data.subtree]]\npath = "x"\nmode = "move"\n', "mode takes"),
        ('[[mounts.data.subtree]]\nmode = "copy"\n', "path takes a path"),
        ('[[mounts.data.subtree]]\npath = "a/../b"\nmode = "copy"\n', "path takes a path"),
        ('[[mounts.data.subtree]]\npath = 7\nmode = "copy"\n', "path takes a path"),
        ('[[mounts.data.subtree]]\npath = "x"\nmode = "copy"\nrecheck_s = 0\n', "1 or more"),
        ('[[mounts.data.subtree]]\npath = "x"\nmode = "copy"\nrecheck_s = true\n', "1 or more"),
        ('[[mounts.data.subtree]]\npaht = "x"\nmode = "copy"\n', "did you mean path"),
        ('subtree = "x"\n', "list of tables"),
        ('[mounts.data.subtree]\npath = "x"\nmode = "copy"\n', "list of tables"),
        (2 * '[[mounts.data.subtree]]\npath = "x"\nmode = "copy"\n', "there twice"),
    ],
)
def test_a_wrong_one_gets_a_line_that_says_what_is_wrong(
    tmp_path: Path, text: str, says: str
) -> None:
    with pytest.raises(UsageError, match=says) as raised:
        read(tmp_path, MOUNT + text)
    assert "config.toml" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_only_a_mount_has_subtrees(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="subtree"):
        read(tmp_path, '[remotes.lab]\nsource = "s3://lab"\nsubtree = "x"\n')
