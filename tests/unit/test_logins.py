"""What `mountd login` has stored, and which mount finds it."""

import stat
from collections.abc import Mapping
from pathlib import Path

import pytest

from mountd.config.file import ConfigFile
from mountd.config.load import CommandLine, resolve_source
from mountd.config.logins import Login, find, save, server_of
from mountd.errors import CredentialsError, StartError

HOST = "https://cloud.example.org"


def login(user: str = "ann", server: str = HOST, password: str = "s3cret") -> Login:
    return Login(server, user, f"{user}@example.org", password)


def credentials(text: str, home: Path, **environ: str) -> Mapping[str, str]:
    found = {"XDG_CONFIG_HOME": str(home), **environ}
    return resolve_source(text, ConfigFile(), CommandLine({}, {}), found)[1].credentials


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "mountd" / "logins"


def test_a_mount_of_the_host_finds_its_sign_in_with_and_without_the_user(
    folder: Path, tmp_path: Path
) -> None:
    save(login(), folder)
    signed_in = {"user": "ann", "login_name": "ann@example.org", "password": "s3cret"}
    for source in (
        "nextcloud://cloud.example.org/x",
        "nextcloud://ann@CLOUD.example.org:443",
        "nextcloud://ann@example.org@cloud.example.org/x",
    ):
        assert credentials(source, tmp_path) == signed_in
    assert credentials("nextcloud://bob@cloud.example.org", tmp_path) == {"user": "bob"}


def test_a_sign_in_goes_to_no_other_server(folder: Path, tmp_path: Path) -> None:
    save(login(), folder)
    for source, endpoint in (
        ("nextcloud://cloud.example.org:8443", ""),
        ("nextcloud://cloud.example.org.evil.org", ""),
        ("nextcloud://cloud.example.org", "http://cloud.example.org"),
        ("nextcloud://cloud.example.org", "https://cloud.example.org/folder"),
        ("webdav://cloud.example.org", ""),
    ):
        environ = {"MOUNTD_ENDPOINT": endpoint} if endpoint else {}
        assert "password" not in credentials(source, tmp_path, **environ)


def test_a_password_that_is_given_comes_before_a_stored_one(folder: Path, tmp_path: Path) -> None:
    save(login(), folder)
    given = credentials("nextcloud://ann@cloud.example.org", tmp_path, MOUNTD_PASSWORD="own")
    assert given == {"user": "ann", "password": "own"}
    given = credentials("nextcloud://ann@cloud.example.org", tmp_path, MOUNTD_TOKEN="own")
    assert given == {"user": "ann", "token": "own"}


def test_signing_in_again_replaces_the_password_in_a_file_that_only_we_can_read(
    folder: Path,
) -> None:
    save(login(password="old"), folder)
    path = save(login(password="new"), folder)
    assert find(HOST, "ann", folder) == login(password="new")
    assert [each for each in folder.rglob("*") if each.is_file()] == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {stat.S_IMODE(each.stat().st_mode) for each in (folder, path.parent)} == {0o700}
    assert "new" not in repr(find(HOST, "ann", folder))


def test_of_two_accounts_at_one_host_one_must_be_named(folder: Path, tmp_path: Path) -> None:
    save(login(), folder)
    save(login("bob"), folder)
    with pytest.raises(CredentialsError, match="sign-ins of ann, bob at https://cloud"):
        credentials("nextcloud://cloud.example.org", tmp_path)
    assert credentials("nextcloud://bob@cloud.example.org", tmp_path)["user"] == "bob"


def test_a_file_that_others_may_read_is_not_used(folder: Path) -> None:
    path = save(login(), folder)
    path.chmod(0o644)
    with pytest.raises(CredentialsError, match=f"type: chmod 600 {path}"):
        find(HOST, "ann", folder)


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff", b'{"server": 1}'])
def test_a_damaged_file_is_named(folder: Path, data: bytes) -> None:
    path = save(login(), folder)
    path.write_bytes(data)
    with pytest.raises(CredentialsError, match=f"{path} is damaged; type mountd login again"):
        find(HOST, "", folder)


def test_a_folder_that_others_may_enter_takes_no_password(folder: Path) -> None:
    folder.mkdir(parents=True, mode=0o755)
    with pytest.raises(StartError, match="chmod 700"):
        save(login(), folder)


def test_names_of_servers_and_users_stay_inside_the_folder(folder: Path) -> None:
    odd = login("../../x", server_of("", "http://[::1]:8080/a/../b/"))
    path = save(odd, folder)
    assert path.parent.parent == folder
    assert find(odd.server, "../../x", folder) == odd
