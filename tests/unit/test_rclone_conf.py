"""rclone.conf, the variables beside it, and obscured passwords."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mountd.cli import remotes
from mountd.config.rclone_conf import RcloneConfig, parse_rclone, read_rclone
from mountd.config.rclone_obscure import reveal
from mountd.config.rclone_source import resolve_rclone
from mountd.errors import UsageError

RCLONE = Path(sys.executable).parent / "rclone"


@pytest.mark.parametrize(
    ("password", "obscured"),  # by rclone 1.75.2
    [
        ("a", "sXvjMb4wV6-QA3HrIPGl-08"),
        ("secret", "0EulCnQmzZxf8LDOAHq5pKkwDH7IoQ"),
        ("pässwörd=# ;x", "jlFZKVcAH-TuDa_dzA9bx1fgT6C-j2EqQnrAXZ9zOA"),
        (
            "0123456789abcdefghijklmnopqrstuvwxyz",
            "Hqh36phsbKarpLr3S6bIIiDcOWo5mejbZzhmJyZUIND9I0m5Dz8OSz1UQpgzBVkPeqbBUw",
        ),
    ],
)
def test_what_rclone_has_obscured_is_revealed(password: str, obscured: str) -> None:
    assert reveal(obscured) == password


def test_this_rclone_obscures_as_those_before_it() -> None:
    made = subprocess.run(
        [RCLONE, "obscure", "-"], input="Grüße, welt", capture_output=True, text=True, check=True
    ).stdout
    assert reveal(made.strip()) == "Grüße, welt"


@pytest.mark.parametrize(
    "text",
    ["secret", "s3cret!", "k7Gs2-Xx9aB-1cD3e-Fg5hI-jK7lM", "A" * 22, "0EulCnQmzZxf8LDOAHq5pP__DH7"],
)
def test_a_password_that_is_not_obscured_is_told_and_not_shown(text: str) -> None:
    remote = RcloneConfig(None, {"x": {"pass": text}}, {}).remote("x")
    with pytest.raises(UsageError, match=r"\[x\]: pass is not obscured") as caught:
        remote.password("pass")
    assert text not in str(caught.value)


@given(st.text())
def test_any_text_is_revealed_or_refused(text: str) -> None:
    said = ""
    try:
        reveal(text)
    except ValueError as error:
        said = str(error)
    assert said in ("", "no base64url", "too short", "no text")


def test_the_file_is_read_as_rclone_reads_it() -> None:
    text = (
        "\ufeff# c\n; c\n[a]\r\n  type = s3\n\n  region: x # no comment\nKey=%(v)s = 1\n\n"
        '[ b c ]\ntype=`local`\nq = "x"\nr:"""a`b"""\n[a]\ntype = webdav\n[DEFAULT]\nq = 1\n'
    )
    assert parse_rclone(text.encode(), "f") == {
        "a": {"type": "webdav", "region": "x # no comment", "Key": "%(v)s = 1"},
        "b c": {"type": "local", "q": '"x"', "r": "a`b"},
        "DEFAULT": {"q": "1"},
    }


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"pass = s3cret\n", r"f:1: write \[NAME\] above the first key"),
        (b"[x]\n\ns3cret\n", r"f:3: write KEY = VALUE"),
        (b"[x] s3cret\n", r"f:1: write KEY = VALUE"),
        (b"[x]\na = `s3cret\n", r"f \[x\]: a value has quotes"),
        (b"[x]\n= s3cret\n", r"f:2: write KEY = VALUE"),
        (b"[x]\na = s3cret\xff\n", "f is no text"),
        (b"# Encrypted rclone configuration File\n\nRCLONE_ENCRYPT_V0:\ns3cret\n", "is encrypted"),
    ],
)
def test_a_file_that_is_none_gets_one_line_without_its_content(data: bytes, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        parse_rclone(data, "f")
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_encrypted_file_is_read_once_rclone_has_done_what_the_message_says(
    tmp_path: Path,
) -> None:
    conf, plain = tmp_path / "rclone.conf", tmp_path / "plain.conf"
    text = "[x]\ntype = webdav\nurl = https://h/\npass = 0EulCnQmzZxf8LDOAHq5pKkwDH7IoQ\n"
    conf.write_text(text)
    command = [str(RCLONE), "--password-command", "echo s3cret", "config", "encryption"]
    subprocess.run([*command, "set", "--config", str(conf)], check=True, capture_output=True)
    with pytest.raises(UsageError, match="rclone --config FILE config encryption remove"):
        read_rclone({"RCLONE_CONFIG": str(conf)})
    plain.write_bytes(conf.read_bytes())
    subprocess.run([*command, "remove", "--config", str(plain)], check=True, capture_output=True)
    found = read_rclone({"RCLONE_CONFIG": str(plain)}).remote("x")
    assert found.password("pass") == "secret"


_LINES = st.lists(
    st.one_of(
        st.text(),
        st.sampled_from(
            ["[x]", "[y]", "[", "[]", "[x", "type = alias", "remote = x:", "remote = y:/..", "a:"]
            + [f"type = {kind}" for kind in ("s3", "webdav", "azureblob", "local", "crypt")]
            + ["type = google cloud storage", "vendor = nextcloud", "env_auth = true", " b = 1"]
        ),
        st.builds(
            "{} = {}".format,
            st.sampled_from(
                ["url", "pass", "remote", "endpoint", "sas_url", "user", "service_account_file"]
            ),
            st.one_of(st.text(), st.from_regex(r"https?://[^ ]*")),
        ),
    ),
    max_size=12,
)


@given(_LINES, st.text(), st.binary())
def test_any_file_gives_remotes_or_one_line(lines: list[str], path: str, noise: bytes) -> None:
    whole = "\n".join(["[x]", *lines]).encode("utf-8", "surrogatepass")
    for data in (whole, noise):
        try:
            config = RcloneConfig(None, parse_rclone(data, "f"), {})
            shown = resolve_rclone(f"rclone:x:{path}", {}, config)[0].prefix
        except UsageError as error:
            shown = str(error)
        assert shown.isprintable()


def test_the_file_is_found_where_rclone_finds_it(tmp_path: Path) -> None:
    places = [tmp_path / "x/rclone/rclone.conf", tmp_path / "h/.config/rclone/rclone.conf"]
    places += [tmp_path / "h/.rclone.conf", tmp_path / "own.conf"]
    for at, place in enumerate(places):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"[r{at}]\ntype = local\n")
    home = {"HOME": str(tmp_path / "h")}
    in_xdg = {**home, "XDG_CONFIG_HOME": str(tmp_path / "x")}
    assert read_rclone({**in_xdg, "RCLONE_CONFIG": str(places[3])}).names() == ["r3"]
    assert read_rclone(in_xdg).names() == ["r0"]
    assert read_rclone(home).names() == ["r1"]
    places[1].unlink()
    assert read_rclone(home).names() == ["r2"]
    places[2].unlink()
    assert read_rclone(home) == RcloneConfig(None, {}, {})
    with pytest.raises(UsageError, match="Is a directory"):
        read_rclone({"RCLONE_CONFIG": str(tmp_path)})


def test_the_environment_makes_remotes_and_wins_over_the_file_as_with_rclone() -> None:
    variables = {
        "RCLONE_CONFIG": "/nowhere/rclone.conf",
        "RCLONE_CONFIG_PASS": "p",
        "RCLONE_CONFIG_RSHARE_TYPE": "local",
        "RCLONE_CONFIG_LAB_REGION": "",
        "RCLONE_CONFIG_LAB_TYPE": "s3",
    }
    assert read_rclone(variables).names() == ["lab", "rshare"]
    assert dict(read_rclone(variables).remote("RShare").values) == {"type": "local"}
    config = RcloneConfig(None, {"Lab": {"type": "x", "region": "r", "k": "v"}}, variables)
    assert config.names() == ["Lab", "rshare"]
    assert config.remote("Lab").values == {"type": "s3", "region": "", "k": "v"}
    with pytest.raises(UsageError, match=r"no remote 'rshar' in .*did you mean rshare"):
        config.remote("rshar")


def test_remotes_lists_those_of_rclone_and_says_which_it_cannot_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    conf = tmp_path / "rclone.conf"
    conf.write_text(
        f"[loc]\ntype = local\n[here]\ntype = alias\nremote = {tmp_path}\n"
        "[x]\ntype = crypt\nremote = here:\npassword = s3cret\n"
        "[c]\ntype = webdav\nvendor = nextcloud\nuser = a\npass = s3cret\n"
        "url = https://h/remote.php/webdav\n"
    )
    monkeypatch.setenv("RCLONE_CONFIG", str(conf))
    monkeypatch.setenv("MOUNTD_CONFIG", str(tmp_path / "config.toml"))
    (tmp_path / "config.toml").write_text("")
    assert remotes.run(["--check"]) == 0
    table = [line.split(maxsplit=5) for line in capsys.readouterr().out.splitlines()[1:]]
    assert [row[:3] + row[4:5] for row in table] == [
        ["rclone:loc:", "rclone", "file:///", "ok"],
        ["rclone:here:", "rclone", f"file://{tmp_path}", "ok"],
        ["rclone:x:", "rclone", "-", "-"],
        ["rclone:c:", "rclone", "-", "-"],
    ]
    assert "type crypt" in table[2][5]
    assert "not obscured" in table[3][5]
    assert "s3cret" not in str(table)
    conf.write_text("s3cret")
    assert remotes.run([]) == 0
    assert "write [NAME]" in capsys.readouterr().err


def test_passwords_are_in_no_repr() -> None:
    config = RcloneConfig(None, {"x": {"pass": "s3cret"}}, {"RCLONE_CONFIG_X_KEY": "s3cret"})
    assert "s3cret" not in repr((config, config.remote("x")))
