"""Precedence of settings, and errors that say what was meant."""

import pytest

from headrace.serve.config import ConfigError, Settings, convert, settings_from


def test_precedence(tmp_path):
    file = tmp_path / "headrace.toml"
    file.write_text("[listen]\ngrpc_port = 1\nhttp_port = 2\n[repository]\nthreads = 3\n")
    environ = {"HEADRACE_CONFIG": str(file)}
    found = settings_from({}, environ)
    assert (found.listen.grpc_port, found.listen.http_port, found.listen.metrics_port) == (1, 2, 8002)
    assert found.repository.threads == 3
    assert settings_from({}, environ | {"HEADRACE_THREADS": "4"}).repository.threads == 4
    assert settings_from({"threads": 5, "grpc_port": 9}, environ | {"HEADRACE_THREADS": "4"}).repository.threads == 5
    other = tmp_path / "other.toml"
    other.write_text("[listen]\nhost = '::1'\n")
    assert settings_from({"config": str(other)}, environ).listen.host == "::1"


def test_defaults():
    assert settings_from({}, {}) == Settings()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"listen": {"grpc-port": 1}}, "unknown key 'listen.grpc-port'; did you mean 'grpc_port'"),
        ({"lisen": {}}, "did you mean 'listen'"),
        ({"limits": {"qqq": 1}}, "known are 'max_message_bytes'"),
        ({"listen": {"grpc_port": "x"}}, "listen.grpc_port: Expected `int`, got `str`"),
        ({"listen": 3}, "Expected `object`"),
    ],
)
def test_errors(data, words):
    with pytest.raises(ConfigError, match=words):
        convert(Settings, data, "headrace.toml")


def test_missing_file_and_bad_environment(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.toml"):
        settings_from({"config": str(tmp_path / "none.toml")}, {})
    with pytest.raises(ConfigError, match="HEADRACE_THREADS"):
        settings_from({}, {"HEADRACE_THREADS": "many"})
