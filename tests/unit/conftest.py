"""Places and a bucket of a test's own, for those that run commands in this process."""

from pathlib import Path

import pytest

from tests.servers.s3.launch import S3Server


@pytest.fixture
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runtime directory, cache folder and an empty config file below `tmp_path`."""
    monkeypatch.setenv("MOUNTD_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("MOUNTD_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "config.toml").write_text("")
    monkeypatch.setenv("MOUNTD_CONFIG", str(tmp_path / "config.toml"))


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """With an empty bucket `b`, in this process's environment."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    s3_server.make_bucket("b")
    s3_server.clear_log()
    return s3_server
