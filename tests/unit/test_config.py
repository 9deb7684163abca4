"""Options, config file, environment and their precedence."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mountd.config import Settings
from mountd.config.credentials import from_environment as credentials_from_environment
from mountd.config.file import ConfigFile, find_config, load_config
from mountd.config.load import (
    CommandLine,
    plan_mount,
    read_command_line,
    read_environment,
    resolve_source,
)
from mountd.config.options import OPTIONS, read_option, read_size, split_option_list
from mountd.errors import UsageError

NOTHING = CommandLine({}, {})


def write(path: Path, text: str) -> ConfigFile:
    path.write_text(text)
    path.chmod(0o600)
    return load_config(path)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("20GiB", 20 << 30),
        ("512M", 512 << 20),
        ("1.5G", 3 << 29),
        ("10kB", 10_000),
        ("2 TiB", 2 << 40),
        ("7b", 7),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert read_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1", "1X", "1 2", "nan", "1e9", "0x10"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        read_size(text)


def test_a_comma_in_a_value_is_escaped() -> None:
    assert list(split_option_list(r"cache_dir=/a\,b,ro,,endpoint=http://h?x=1")) == [
        ("cache_dir", "/a,b"),
        ("ro", None),
        ("endpoint", "http://h?x=1"),
    ]


@given(st.lists(st.text(st.characters(exclude_characters="\\"), min_size=1), min_size=1))
def test_escaped_values_come_back_whatever_they_hold(values: list[str]) -> None:
    joined = ",".join("k=" + value.replace(",", "\\,") for value in values)
    assert [value for _, value in split_option_list(joined)] == values


def test_there_is_an_option_for_every_setting_and_none_more() -> None:
    fields = set(Settings.__dataclass_fields__) - {"credentials", "widest_transfers"}
    assert set(OPTIONS) == fields


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("cache_size", "20GiB", 20 << 30),
        ("block_size", "4M", 4 << 20),
        ("umask", "027", 0o027),
        ("uid", "root", 0),
        ("gid", "0", 0),
        ("xattrs", "off", False),
        ("metadata_ttl_s", "2.5", 2.5),
        ("bandwidth_up", "0", None),
        ("endpoint", "http://127.0.0.1:9000/", "http://127.0.0.1:9000"),
        ("metrics", "127.0.0.1:9100", "127.0.0.1:9100"),
        ("metrics", ":9100", "127.0.0.1:9100"),
        ("metrics", "[::1]:0", "[::1]:0"),
    ],
)
def test_option_values_are_read(name: str, text: str, value: object) -> None:
    assert read_option(name, text, "-o") == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cache_size", "lots"),
        ("cache_size", "12"),
        ("block_size", "3MiB"),
        ("block_size", "1"),
        ("umask", "9"),
        ("uid", "no-such-user-here"),
        ("gid", "-1"),
        ("xattrs", "maybe"),
        ("request_timeout_s", "0"),
        ("metadata_ttl_s", "nan"),
        ("metadata_ttl_s", "inf"),
        ("max_transfers", "0"),
        ("durability", "both"),
        ("endpoint", "s3.example.org"),
        ("endpoint", "https://h:99999"),
        ("metrics", "9100"),
        ("metrics", "::1:9100"),
        ("metrics", "h:70000"),
        ("cache_dir", ""),
        ("region", ""),
    ],
)
def test_a_bad_value_is_named_with_what_the_option_takes(name: str, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_option(name, text, "-o")
    assert f"-o: {name}={text}: {name} takes " in str(caught.value)


def test_a_password_in_an_endpoint_is_not_repeated() -> None:
    with pytest.raises(UsageError) as caught:
        read_option("endpoint", "https://ann:s3cret@host", "-o")
    assert "s3cret" not in str(caught.value)


def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown option 'cahce_dir'; did you mean cache_dir"):
        read_command_line(["cahce_dir=/x"])


def test_what_mount_8_adds_is_tolerated_and_ro_is_read_only() -> None:
    line = read_command_line(["rw,_netdev,noauto,user,x-systemd.automount,x-a=b", "nofail,ro"])
    assert dict(line.options) == {"read_only": True}


def test_a_later_option_wins_and_a_bare_one_is_true() -> None:
    line = read_command_line(["allow_other,metadata_ttl_s=1", "metadata_ttl_s=2"])
    assert dict(line.options) == {"allow_other": True, "metadata_ttl_s": 2.0}


@pytest.mark.parametrize("option", ["password=s3cret", "secret_access_key=s3cret", "token=s3cret"])
def test_a_secret_on_the_command_line_is_refused_with_the_fix(option: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_command_line([option])
    assert "_file=PATH" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_names_and_files_of_credentials_may_stand_on_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("s3cret\n")
    line = read_command_line([f"user=ann,password_file={tmp_path}/pw"])
    assert dict(line.credentials) == {"user": "ann", "password": "s3cret"}


def test_the_environment_gives_options_and_ignores_what_kubernetes_sets() -> None:
    environ = {"MOUNTD_CACHE_SIZE": "2GiB", "MOUNTD_REGION": "", "MOUNTD_PORT_80_TCP": "tcp://x"}
    assert read_environment(environ) == {"cache_size": 2 << 30}


def test_a_typo_in_the_environment_is_named() -> None:
    with pytest.raises(UsageError, match="MOUNTD_CAHCE_DIR; did you mean MOUNTD_CACHE_DIR"):
        read_environment({"MOUNTD_CAHCE_DIR": "/x"})


CONFIG = """
[defaults]
metadata_ttl_s = 1
max_transfers = 1
region = "defaults"
umask = "0027"

[remotes.lab]
url = "s3://lab/base"
region = "remote"
max_transfers = 2
access_key_id = "AKIDEXAMPLE"
secret_access_key_file = "key"

[mounts.data]
source = "lab:sets/a"
mountpoint = "/storage"
max_transfers = 3
"""


def test_every_layer_wins_over_the_one_below(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("SECRETEXAMPLE\n")
    config = write(tmp_path / "config.toml", CONFIG)
    plan = plan_mount("data", None, config, NOTHING, {})
    assert (plan.name, plan.mountpoint) == ("data", Path("/storage"))
    assert plan.source.text == "s3://lab/base/sets/a"
    settings = plan.settings
    assert (settings.metadata_ttl_s, settings.region, settings.max_transfers) == (1, "remote", 3)
    assert settings.umask == 0o027
    assert dict(settings.credentials) == {
        "access_key_id": "AKIDEXAMPLE",
        "secret_access_key": "SECRETEXAMPLE",
    }
    environ = {"MOUNTD_MAX_TRANSFERS": "4", "MOUNTD_REGION": "environment"}
    line = read_command_line(["max_transfers=5"])
    settings = plan_mount("data", None, config, line, environ).settings
    assert (settings.region, settings.max_transfers) == ("environment", 5)


def test_secrets_are_not_in_what_settings_print(tmp_path: Path) -> None:
    environ = {"MOUNTD_PASSWORD": "s3cret", "MOUNTD_USER": "ann"}
    _, settings = resolve_source("webdav://h/x", ConfigFile(), NOTHING, environ)
    assert settings.credentials["password"] == "s3cret"
    assert "s3cret" not in repr(settings)


def test_a_secret_file_may_be_named_by_the_environment(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("s3cret\r\n")
    environ = {"MOUNTD_PASSWORD_FILE": str(tmp_path / "pw")}
    _, settings = resolve_source("webdav://ann@h/x", ConfigFile(), NOTHING, environ)
    assert dict(settings.credentials) == {"password": "s3cret", "user": "ann"}


def test_a_missing_secret_file_is_named_with_its_key(tmp_path: Path) -> None:
    config = write(tmp_path / "c.toml", CONFIG)
    with pytest.raises(UsageError, match=r"remotes\.lab\] secret_access_key_file: cannot read"):
        plan_mount("lab:", "/storage", config, NOTHING, {})


@pytest.mark.parametrize(
    ("base", "path", "text"),
    [
        ("s3://", "bucket/x", "s3://bucket/x"),
        ("s3://b", "", "s3://b"),
        ("s3://b/p", "/x/", "s3://b/p/x"),
        ("memory://", "x", "memory://x"),
        ("webdav://ann@h", "x", "webdav://h/x"),
    ],
)
def test_a_path_goes_below_its_remote(tmp_path: Path, base: str, path: str, text: str) -> None:
    config = write(tmp_path / "c.toml", f'[remotes.r]\nsource = "{base}"\n')
    source, _ = resolve_source(f"r:{path}", config, NOTHING, {})
    assert source.text == text


def test_nextcloud_looks_more_often_unless_told_otherwise() -> None:
    _, settings = resolve_source("nextcloud://h/", ConfigFile(), NOTHING, {})
    assert settings.metadata_ttl_s == 10
    line = read_command_line(["metadata_ttl_s=99"])
    _, settings = resolve_source("nextcloud://h/", ConfigFile(), line, {})
    assert settings.metadata_ttl_s == 99


def test_nextcloud_gets_few_requests_at_once_and_more_where_nobody_said_how_many() -> None:
    _, settings = resolve_source("nextcloud://h/", ConfigFile(), NOTHING, {})
    assert (settings.max_transfers, settings.widest_transfers) == (4, 32)
    line = read_command_line(["max_transfers=4"])
    _, settings = resolve_source("nextcloud://h/", ConfigFile(), line, {})
    assert (settings.max_transfers, settings.widest_transfers) == (4, None)


def test_a_relative_mount_point_is_made_absolute() -> None:
    plan = plan_mount("memory://", "some/dir", ConfigFile(), NOTHING, {})
    assert plan.mountpoint == Path.cwd() / "some/dir"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[defaults]\ncache_sise = 1\n", "2 [defaults]: unknown key 'cache_sise'; did you mean"),
        ("[default]\n", ":1: unknown section or key 'default'; did you mean defaults?"),
        ("cache_dir = '/x'\n", ":1: unknown section or key 'cache_dir'"),
        ("[remotes.r]\nsource='s3://b'\nregoin='x'\n", ":3 [remotes.r]: unknown key 'regoin'"),
        ("[remotes.r]\nregion='x'\n", ":1 [remotes.r]: source is missing"),
        ("[remotes]\nr='s3://b'\n", "remotes.r is no section"),
        ("[mounts.m]\nsource='s3://b'\n[mounts.m.x]\n", "takes a string"),
        ("[defaults]\nblock_size = 7\n", ":2 [defaults]: block_size=7: block_size takes"),
        ("[defaults]\npassword = 'x'\n", "unknown key 'password'"),
        ("[remotes.'a b']\nsource='s3://b'\n", "the name 'a b' cannot be used"),
        ("[defaults\n", "is no TOML"),
        ("[remotes.r]\nsource='s3://b'\npasword='x'\n", "did you mean password?"),
        ("[remotes.r]\nsource='sftp://h/x'\nregon='x'\n", "did you mean region?"),
    ],
)
def test_a_typo_in_the_config_is_named_with_file_line_and_key(
    tmp_path: Path, text: str, words: str
) -> None:
    with pytest.raises(UsageError) as caught:
        write(tmp_path / "c.toml", text)
    assert str(tmp_path / "c.toml") in str(caught.value)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_foreign_file_system_may_have_credentials_that_only_it_knows(tmp_path: Path) -> None:
    text = "[remotes.r]\nsource='sftp://h/x'\nkey_filename='/k'\nusername='bob'\n"
    config = write(tmp_path / "c.toml", text)
    _, settings = resolve_source("r:", config, NOTHING, {})
    assert dict(settings.credentials) == {"key_filename": "/k", "username": "bob"}


def test_a_missing_or_unreadable_config_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read the config file .*/nope: No such file"):
        load_config(tmp_path / "nope")
    with pytest.raises(UsageError, match="cannot read the config file"):
        load_config(tmp_path)


def test_a_secret_that_others_may_read_is_warned_about(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("[remotes.r]\nsource='webdav://h'\npassword='s3cret'\n")
    path.chmod(0o644)
    assert "chmod 600" in load_config(path).warnings[0]
    path.chmod(0o600)
    assert load_config(path).warnings == ()


def test_an_unknown_mount_or_remote_names_the_nearest(tmp_path: Path) -> None:
    config = write(tmp_path / "c.toml", "[mounts.data]\nsource='s3://b'\nmountpoint='/x'\n")
    with pytest.raises(UsageError, match="no mount 'date'; did you mean data"):
        plan_mount("date", None, config, NOTHING, {})
    config = write(tmp_path / "c.toml", "[remotes.lab]\nsource='s3://b'\n")
    with pytest.raises(UsageError, match=r"no remote 'lap'.*did you mean lab"):
        resolve_source("lap:x", config, NOTHING, {})
    with pytest.raises(UsageError, match="MOUNTPOINT is missing"):
        plan_mount("s3://b", None, config, NOTHING, {})


def test_the_config_file_is_looked_for_in_the_order_of_cli_md(tmp_path: Path) -> None:
    home = tmp_path / "mountd"
    home.mkdir()
    (home / "config.toml").write_text("")
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    assert find_config(None, environ) == home / "config.toml"
    environ["MOUNTD_CONFIG"] = "/named/by/environment"
    assert find_config(None, environ) == Path("/named/by/environment")
    assert find_config("/named/by/option", environ) == Path("/named/by/option")


def test_the_default_cache_is_roots_or_the_users_own() -> None:
    _, settings = resolve_source("memory://", ConfigFile(), NOTHING, {"XDG_CACHE_HOME": "/c"})
    expected = "/var/cache/mountd" if os.geteuid() == 0 else "/c/mountd"
    assert settings.cache_dir == Path(expected)


def test_what_the_service_manager_loaded_is_used_and_only_what_is_meant_for_us(
    tmp_path: Path,
) -> None:
    (tmp_path / "mountd.password").write_text("sesame\n")
    (tmp_path / "token").write_text("of another program of this service")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path), "MOUNTD_USER": "ann"}
    assert credentials_from_environment(environ) == {"user": "ann", "password": "sesame"}
    environ["MOUNTD_PASSWORD"] = "given here"
    assert credentials_from_environment(environ)["password"] == "given here"


def test_a_loaded_credential_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "mountd.token").mkdir()
    with pytest.raises(UsageError, match=r"credential mountd\.token: cannot read"):
        credentials_from_environment({"CREDENTIALS_DIRECTORY": str(tmp_path)})
