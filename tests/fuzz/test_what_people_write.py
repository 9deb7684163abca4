"""Configuration, manifests and requests: read, or refused with one line that says what is wrong."""

import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from mountd.config.file import load_config
from mountd.config.load import read_command_line, read_environment
from mountd.config.options import OPTIONS, read_option
from mountd.config.rclone_conf import RcloneConfig, parse_rclone
from mountd.config.rclone_obscure import reveal
from mountd.config.rclone_source import resolve_rclone
from mountd.config.source import parse_source
from mountd.control.server import ControlServer
from mountd.errors import UsageError
from mountd.manifest import read_manifest
from mountd.remotes.aws_profile import configured_endpoint, profile_named
from mountd.remotes.nextcloud_push import PushAddress, why_not
from mountd.service.sd_notify import passed_fds, watchdog_interval_s
from tests.fuzz.hostile import few, fuzz, odd_texts, odd_values, read_or_refused, spoilt

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None

_CONFIG = b"""[defaults]
cache_size = "20GiB"
[remotes.lab]
source = "s3://lab"
endpoint = "https://s3.lab.example"
secret_access_key_file = "lab.key"
[mounts.data]
source = "lab:sets/a"
mountpoint = "/storage"
[[mounts.data.subtree]]
path = "imagenet"
mode = "copy"
recheck_s = 300
"""


def refusal_of(read: Callable[[], object]) -> str:
    try:
        read()
    except (UsageError, ValueError) as error:
        return str(error)
    return ""


@few
@given(spoilt(_CONFIG))
def test_a_spoilt_config_file_is_read_or_refused_in_one_line(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=MEMORY) as file:
        file.write(data)
        file.flush()
        why = refusal_of(lambda: load_config(Path(file.name)))
        assert "\n" not in why.strip()


@fuzz
@given(st.sampled_from(sorted(OPTIONS)), odd_texts)
def test_an_odd_option_is_read_or_refused(name: str, text: str) -> None:
    read_or_refused(lambda: read_option(name, text, "here"), UsageError)
    read_or_refused(lambda: read_environment({f"MOUNTD_{name.upper()}": text}), UsageError)
    read_or_refused(lambda: read_command_line([f"{name}={text}", text]), UsageError)


@fuzz
@given(
    st.sampled_from(("s3://", "gs://", "az://", "webdav://", "nextcloud://", "file://", "x:", "")),
    odd_texts,
)
def test_an_odd_source_is_read_or_refused(scheme: str, text: str) -> None:
    read_or_refused(lambda: parse_source(scheme + text), UsageError)


_RCLONE = b"""[n]
type = webdav
url = https://h/remote.php/dav/files/u
vendor = nextcloud
user = u
pass = YmJiYmJiYmJiYmJiYmJiYp7sIb0
[a]
type = alias
remote = n:folder
[s]
type = s3
access_key_id = k
secret_access_key = s
endpoint = h:9000
"""


@few
@given(spoilt(_RCLONE), st.sampled_from(("n:", "a:x", "s:b/p", "zz:", ":", "n:../x", "a")))
def test_a_spoilt_rclone_conf_is_read_or_refused_and_names_do_not_lead_out(
    data: bytes, name: str
) -> None:
    def read() -> str:
        config = RcloneConfig(Path("/r"), parse_rclone(data, "/r"), {})
        source, _ = resolve_rclone(f"rclone:{name}", {}, config)
        return source.prefix

    prefix = read_or_refused(read, UsageError) or ""
    assert ".." not in prefix.split("/")
    assert "\0" not in prefix


@fuzz
@given(st.one_of(odd_texts, st.text("abcdefABCDEF0123456789-_=", max_size=60)))
def test_what_was_not_obscured_is_refused_without_being_repeated(text: str) -> None:
    assert len(text) < 6 or text not in refusal_of(lambda: reveal(text))


_MANIFEST = json.dumps(
    {
        "mountd_manifest": 1,
        "locations": [{"source": "s3://b", "endpoint": "https://h"}],
        "files": [{"path": "d/a", "size": 5, "version": '"e"', "key": "k", "sha1": "0" * 40}],
    }
).encode()


@few
@given(spoilt(_MANIFEST), st.sampled_from(("path", "key", "size", "version", "at")), odd_values)
def test_a_spoilt_manifest_is_refused_or_has_no_name_that_leads_out(
    data: bytes, name: str, value: object
) -> None:
    whole = json.loads(_MANIFEST)
    whole["files"][0][name] = value
    for text in (data, json.dumps(whole).encode()):
        with tempfile.NamedTemporaryFile(dir=MEMORY) as file:
            file.write(text)
            file.flush()
            found = read_or_refused(partial(read_manifest, Path(file.name)), UsageError)
        for one in found.files if found else ():
            for path in (one.path, one.key):
                assert not path.startswith("/")
                assert "\0" not in path
                assert {"", ".", ".."}.isdisjoint(path.split("/"))
            assert 0 <= one.size < 1 << 63


@few
@given(spoilt(b"[profile x]\nendpoint_url = https://h\ns3 =\n  addressing_style = path\n"))
def test_a_spoilt_aws_config_is_read_or_left_out(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=MEMORY) as file:
        file.write(data)
        file.flush()
        environ = {"AWS_CONFIG_FILE": file.name, "AWS_SHARED_CREDENTIALS_FILE": file.name}
        configured_endpoint(profile_named("x", environ), environ)


@fuzz
@given(
    st.dictionaries(
        st.sampled_from(("WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_FDNAMES")),
        odd_texts,
    )
)
def test_what_a_service_manager_says_is_read_or_left_out(environ: dict[str, str]) -> None:
    watchdog_interval_s(environ, 7)
    assert len(passed_fds({**environ, "LISTEN_PID": "7"}, 7)) <= 4096


@fuzz
@given(odd_texts)
def test_the_password_goes_to_no_other_host_whatever_address_a_server_names(text: str) -> None:
    for url in (f"wss://{text}", f"wss://cloud{text}/push", f"ws://cloud/{text}"):
        address = PushAddress(url, "https://cloud", "u", "p")
        try:
            why = why_not(address)
        except ValueError:
            why = "no URL"
        is_there = url.startswith("wss://cloud") and url[11:12] in ("", "/", ":", "?", "#")
        assert why or is_there


@settings(few, max_examples=max(5, few.max_examples // 3))
@given(st.lists(spoilt(b'{"op":"echo","timeout_s":1}\n'), min_size=3, max_size=8))
def test_spoilt_requests_are_answered_and_the_next_one_too(requests: list[bytes]) -> None:
    async def echo(message: dict[str, object]) -> dict[str, object]:
        return {"heard": message}

    async def run(path: Path) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(ControlServer(path, {"echo": echo}).serve)
            for sent in (*requests, b'{"op":"echo"}\n'):
                async with await trio.open_unix_socket(path) as stream:
                    heard = b""
                    try:
                        await stream.send_all(sent)
                        await stream.send_eof()
                        heard = b"".join([chunk async for chunk in stream])
                    except trio.BrokenResourceError:
                        pass  # too long to be read to its end
                    assert not heard or isinstance(json.loads(heard)["ok"], bool)
            assert json.loads(heard)["ok"] is True
            nursery.cancel_scope.cancel()

    with tempfile.TemporaryDirectory() as name:
        trio.run(run, Path(name) / "s")
