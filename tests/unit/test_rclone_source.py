"""Which source of ours a remote of rclone is, and with which settings."""

from pathlib import Path

import pytest

from mountd.cache_folder import identity_name
from mountd.config import Settings
from mountd.config.file import load_config
from mountd.config.load import CommandLine, resolve_source
from mountd.config.source import Source
from mountd.errors import UsageError

NOTHING = CommandLine({}, {})
PASS = "0EulCnQmzZxf8LDOAHq5pKkwDH7IoQ"  # secret
DAV = f"type = webdav\nuser = al\npass = {PASS}\n"
S3 = "type = s3\naccess_key_id = AK\nsecret_access_key = SK\n"
NONE = "/nonexistent/rclone.conf"


class Rclone:
    """`resolve` with an rclone.conf and nothing else of this machine."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "rclone.conf"
        self.toml = folder / "config.toml"
        self.toml.write_text("")
        self.toml.chmod(0o600)
        self.environ = {"HOME": str(folder), "RCLONE_CONFIG": str(self.path)}

    def resolve(
        self, text: str, conf: str = "", given: CommandLine = NOTHING, **environ: str
    ) -> tuple[Source, Settings]:
        self.path.write_text(conf)
        config = load_config(self.toml)
        return resolve_source(text, config, given, {**self.environ, **environ})


@pytest.fixture
def rclone(tmp_path: Path) -> Rclone:
    return Rclone(tmp_path)


def is_same(one: tuple[Source, Settings], other: tuple[Source, Settings]) -> bool:
    """Whether both use one cache folder."""
    return identity_name(*one, environ={}) == identity_name(*other, environ={})


@pytest.mark.parametrize(
    ("url", "text", "endpoint"),
    [
        ("https://Cloud.example/remote.php/dav/files/al", "nextcloud://cloud.example/d", None),
        ("https://c:443/remote.php/dav/files/al/", "nextcloud://c/d", None),
        ("https://c/remote.php/webdav", "nextcloud://c/d", None),
        ("https://c/remote.php/dav/files/al/a%20b", "nextcloud://c/a b/d", None),
        ("https://c/sub/remote.php/dav/files/al", "nextcloud://c/d", "https://c/sub"),
        ("http://c:8080/remote.php/dav/files/al", "nextcloud://c:8080/d", "http://c:8080"),
        ("https://c/elsewhere/al", "webdav://c/elsewhere/al/d", None),
        ("http://c/", "webdav+http://c/d", None),
    ],
)
def test_a_nextcloud_is_the_same_as_under_its_own_url(
    rclone: Rclone, url: str, text: str, endpoint: str | None
) -> None:
    found = rclone.resolve("rclone:x:d", f"[x]\n{DAV}vendor = nextcloud\nurl = {url}\n")
    options = {"endpoint": endpoint} if endpoint else {}
    own = rclone.resolve(text, given=CommandLine(options, {"user": "al", "password": "secret"}))
    assert found[0].text == "rclone:x:d"
    assert (found[0].scheme, found[0].authority, found[0].prefix) == (
        own[0].scheme,
        own[0].authority,
        own[0].prefix,
    )
    assert found[1] == own[1]
    assert is_same(found, own)


def test_who_signs_in_and_whose_files_they_are_may_have_two_names(rclone: Rclone) -> None:
    conf = f"[x]\n{DAV}vendor = nextcloud\nurl = https://c/remote.php/dav/files/a%40b\n"
    _, settings = rclone.resolve("rclone:x:", conf)
    assert settings.credentials == {"user": "a@b", "login_name": "al", "password": "secret"}


def test_the_environment_alone_makes_a_nextcloud(rclone: Rclone) -> None:
    source, settings = rclone.resolve(
        "rclone:rshare:",
        RCLONE_CONFIG=NONE,
        RCLONE_CONFIG_RSHARE_TYPE="webdav",
        RCLONE_CONFIG_RSHARE_URL="https://c/remote.php/webdav/",
        RCLONE_CONFIG_RSHARE_VENDOR="nextcloud",
        RCLONE_CONFIG_RSHARE_USER="al",
        RCLONE_CONFIG_RSHARE_PASS=PASS,
    )
    assert source == Source("nextcloud", "c", "", "rclone:rshare:")
    assert settings.credentials == {"user": "al", "password": "secret"}
    assert settings.metadata_ttl_s == 10


@pytest.mark.parametrize(
    ("lines", "credentials", "options"),
    [
        (S3, {"access_key_id": "AK", "secret_access_key": "SK"}, {}),
        (
            f"{S3}session_token = T\nregion = eu\nendpoint = s3.x\nforce_path_style = false\n",
            {
                "access_key_id": "AK",
                "secret_access_key": "SK",
                "session_token": "T",
                "addressing_style": "virtual",
            },
            {"endpoint": "https://s3.x", "region": "eu"},
        ),
        ("type = s3\nprovider = AWS\n", {"anonymous": "true"}, {}),
        ("type = s3\nenv_auth = true\nprofile = lab\n", {"profile": "lab"}, {}),
    ],
)
def test_s3(
    rclone: Rclone, lines: str, credentials: dict[str, str], options: dict[str, str]
) -> None:
    source, settings = rclone.resolve("rclone:x:b/p/q/", f"[x]\n{lines}")
    assert source == Source("s3", "b", "p/q", "rclone:x:b/p/q")
    assert settings.credentials == credentials
    assert settings.endpoint == options.get("endpoint")
    assert settings.region == options.get("region")
    assert rclone.resolve("rclone:x:", f"[x]\n{lines}")[0].authority == ""


@pytest.mark.parametrize(
    ("lines", "credentials", "endpoint"),
    [
        ("account = a\nkey = S2V5\n", {"account_name": "a", "account_key": "S2V5"}, None),
        ("account = a\nenv_auth = true\n", {"account_name": "a"}, None),
        ("account = a\n", {"account_name": "a", "anonymous": "true"}, None),
        (
            "sas_url = https://acc.blob.core.windows.net/b?sv=1&sig=x%3D\n",
            {"account_name": "acc", "sas_token": "sv=1&sig=x%3D"},
            None,
        ),
        (
            "account = dev\nsas_url = http://h:1/dev/b?sig=x\n",
            {"account_name": "dev", "sas_token": "sig=x"},
            "http://h:1/dev",
        ),
    ],
)
def test_azure(
    rclone: Rclone, lines: str, credentials: dict[str, str], endpoint: str | None
) -> None:
    source, settings = rclone.resolve("rclone:x:b/p", f"[x]\ntype = azureblob\n{lines}")
    assert (source.scheme, source.authority, source.prefix) == ("az", "b", "p")
    assert settings.credentials == credentials
    assert settings.endpoint == endpoint


@pytest.mark.parametrize(
    ("lines", "credentials"),
    [
        ("service_account_file = /k.json\n", {"service_account": "/k.json"}),
        ("service_account_credentials = {}\n", {"service_account": "{}"}),
        ("anonymous = true\ntoken = {}\n", {"anonymous": "true"}),
        ("env_auth = true\nproject_number = 7\n", {"project": "7"}),
        ("access_token = T\n", {"token": "T"}),
        ("", {}),
    ],
)
def test_google(rclone: Rclone, lines: str, credentials: dict[str, str]) -> None:
    source, settings = rclone.resolve("rclone:x:b", f"[x]\ntype = google cloud storage\n{lines}")
    assert (source.scheme, source.authority) == ("gs", "b")
    assert settings.credentials == credentials
    for name in ("gcs", "googlecloudstorage"):  # rclone takes these words, too
        assert rclone.resolve("rclone:x:b", f"[x]\ntype = {name}\n{lines}")[1] == settings


def test_of_two_rights_the_one_that_rclone_takes_counts(rclone: Rclone) -> None:
    _, settings = rclone.resolve("rclone:x:", f"[x]\n{DAV}url = https://h/\nbearer_token = T\n")
    assert settings.credentials == {"user": "al", "password": "secret"}
    sas = "sas_url = https://a.blob.core.windows.net/?sig=x\n"
    lines = f"[x]\ntype = azureblob\naccount = a\nkey = S2V5\n{sas}"
    _, settings = rclone.resolve("rclone:x:", lines)
    assert settings.credentials == {"account_name": "a", "account_key": "S2V5"}


def test_aliases_and_local_directories_are_what_they_stand_for(
    rclone: Rclone, tmp_path: Path
) -> None:
    conf = (
        f"[x]\n{S3}\n[a]\ntype = alias\nremote = x:b/p\n[aa]\ntype = alias\nremote = a:q\n"
        f"[l]\ntype = local\n[al]\ntype = alias\nremote = {tmp_path}\n"
    )
    assert rclone.resolve("rclone:aa:r", conf)[0] == Source("s3", "b", "p/q/r", "rclone:aa:r")
    where = str(tmp_path).lstrip("/")
    assert rclone.resolve(f"rclone:l:{tmp_path}", conf)[0].prefix == where
    assert rclone.resolve("rclone:al:new", conf)[0].prefix == f"{where}/new"


@pytest.mark.parametrize(
    ("text", "conf", "words"),
    [
        ("rclone:x", "", "write rclone:NAME:PATH"),
        ("rclone::s3,secret_access_key=s3cret:b", "", "connection strings"),
        ("rclone:x,pass=s3cret:b", "", "connection strings"),
        ("rclone:x:b", f"[y]\n{S3}", r"no remote 'x' in .*rclone\.conf"),
        ("rclone:x:b", "[x]\n", r"rclone\.conf \[x\]: type is missing"),
        ("rclone:x:b/../c", f"[x]\n{S3}", "or a .."),
        ("rclone:x:b\x1b", f"[x]\n{S3}", "control characters"),
        ("rclone:x:d", "[x]\ntype = local\n", "the path must be absolute"),
        ("rclone:x:d", "[x]\ntype = alias\nremote = y:\n[y]\ntype = alias\nremote = x:a\n", "back"),
        ("rclone:x:d", "[x]\ntype = alias\nremote = here\n", "no absolute path"),
        ("rclone:x:", "[x]\ntype = crypt\nremote = y:\n", "type crypt changes what the files hold"),
        ("rclone:x:", "[x]\ntype = swift\n", "s3://BUCKET/PATH with -o endpoint"),
        ("rclone:x:", "[x]\ntype = sftp\n", "sftp://HOST/PATH"),
        ("rclone:x:", "[x]\ntype = drive\n", "type 'drive' is not supported"),
        ("rclone:x:", f"[x]\n{DAV}url = ftp://h/\n", "url is no URL"),
        ("rclone:x:", f"[x]\n{DAV}url = https://al:s3cret@h/\n", "in their own keys"),
        ("rclone:x:", f"[x]\n{DAV}url = https://h/\nvendor = sharepoint\n", "vendor sharepoint"),
        ("rclone:x:", f"[x]\n{DAV}url = https://h/\nheaders = A,s3cret\n", "headers is not"),
        ("rclone:x:", "[x]\ntype = webdav\npass = s3cret\nurl = https://h/\n", "not obscured"),
        ("rclone:x:", "[x]\ntype = s3\naccess_key_id = A\n", "secret_access_key is missing"),
        ("rclone:x:", f"[x]\n{S3}provider = Minio\n", "endpoint is missing; write that of Minio"),
        ("rclone:x:", f"[x]\n{S3}endpoint = https://a:s3cret@h\n", "or holds a user"),
        ("rclone:x:", f"[x]\n{S3}sse_customer_key = s3cret\n", "sse_customer_key is not supported"),
        ("rclone:x:", "[x]\ntype = google cloud storage\ntoken = {s3cret}\n", "service account"),
        (
            "rclone:x:c",
            "[x]\ntype = azureblob\nsas_url = https://a.blob.core.windows.net/b?sig=s3cret\n",
            "write rclone:x:b/PATH",
        ),
    ],
)
def test_what_cannot_be_mounted_gets_one_line_that_says_what_to_do(
    rclone: Rclone, text: str, conf: str, words: str
) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        rclone.resolve(text, conf)
    assert "s3cret" not in str(caught.value)
    assert str(caught.value).isprintable()


def test_what_is_given_wins_over_rclone_conf(rclone: Rclone) -> None:
    conf = f"[x]\n{S3}endpoint = http://h:1\nregion = eu\n"
    given = CommandLine({"endpoint": "http://h:2"}, {})
    assert rclone.resolve("rclone:x:b", conf, given)[1].endpoint == "http://h:2"
    found = rclone.resolve("rclone:x:b", conf, MOUNTD_REGION="us", MOUNTD_PROFILE="lab")[1]
    assert (found.region, found.credentials) == ("us", {"profile": "lab"})
    found = rclone.resolve("rclone:x:b", conf, MOUNTD_SECRET_ACCESS_KEY="new")[1]
    assert found.credentials == {"access_key_id": "AK", "secret_access_key": "new"}
    found = rclone.resolve("rclone:x:b", conf, MOUNTD_USER="al", MOUNTD_PASSWORD="of a WebDAV")[1]
    assert found.credentials["secret_access_key"] == "SK"


def test_the_keys_of_rclone_do_not_go_to_an_endpoint_of_the_defaults(rclone: Rclone) -> None:
    rclone.toml.write_text('[defaults]\nendpoint = "http://elsewhere"\nmetadata_ttl_s = 5\n')
    _, settings = rclone.resolve("rclone:x:b", f"[x]\n{S3}")
    assert (settings.endpoint, settings.metadata_ttl_s) == (None, 5)


def test_a_remote_of_the_config_file_may_be_one_of_rclone(rclone: Rclone) -> None:
    rclone.toml.write_text('[remotes.lab]\nsource = "rclone:x:b"\nendpoint = "http://h:2"\n')
    source, settings = rclone.resolve("lab:p", f"[x]\n{S3}endpoint = http://h:1\n")
    assert source == Source("s3", "b", "p", "rclone:x:b/p")
    assert settings.endpoint == "http://h:2"


def test_a_name_that_only_rclone_has_is_said_as_it_is_to_be_written(rclone: Rclone) -> None:
    with pytest.raises(UsageError, match="rclone's of that name is rclone:lab:data"):
        rclone.resolve("lab:data", f"[lab]\n{S3}")
