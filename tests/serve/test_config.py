"""Precedence of settings, and errors that say what was meant."""

import math
import re
import tomllib

import pytest

from headrace.serve.config import FLAGS, Auth, ConfigError, Limits, ModelConfig, Settings, convert, settings_from
from headrace.serve.guard import Guard
from headrace.serve.server import Server


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
        ({"listen": {"grpc_port": "x"}}, "listen.grpc_port is 'x'; allowed: a number up to 65535"),
        ({"listen": {"grpc_port": 99999}}, "listen.grpc_port is 99999; allowed: a number up to 65535"),
        ({"listen": {"front": "fast"}}, "listen.front is 'fast'; allowed: 'auto', 'native', 'portable'"),
        ({"listen": {"reflection": 1}}, "listen.reflection is 1; allowed: true or false"),
        ({"listen": 3}, "listen is 3; allowed: a table"),
        (
            {"limits": {"max_connections": -5}},
            "limits.max_connections is -5; allowed: whole numbers from 1 to 2147483647",
        ),
        ({"limits": {"max_message_bytes": -1}}, "limits.max_message_bytes is -1; allowed: whole numbers from 1024"),
        ({"limits": {"max_concurrent_streams": 0}}, "limits.max_concurrent_streams is 0"),
        ({"limits": {"header_timeout_s": math.nan}}, "limits.header_timeout_s is nan; allowed: numbers above 0"),
        ({"limits": {"keepalive_s": math.inf}}, "limits.keepalive_s is inf"),
        ({"repository": {"readiness": "al"}}, "allowed: 'all', 'any', or an array of text"),
        ({"repository": {"paths": "models"}}, "repository.paths is 'models'; allowed: an array of text"),
        ({"log": {"access": "sampled:0"}}, "log.access is 'sampled:0'; allowed: off, errors, slow, all and sampled:N"),
        ({"workers": {"count": -1}}, "workers.count is -1"),
        ({"drain": {"grace_s": -1}}, "drain.grace_s is -1; allowed: numbers from 0 to 1000000"),
    ],
)
def test_errors(data, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        convert(Settings, data, "headrace.toml")


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("[batching]\nmax_batch_size = -7", "batching.max_batch_size is -7; allowed: whole numbers from -1"),
        ("[batching]\nmax_batch_size = 4\npreferred_sizes = [2, 8]", "preferred_sizes has 8; allowed are numbers from 1 to 4"),
        ("[batching]\npreferred_sizes = [2, 0]", "batching.preferred_sizes[1] is 0; allowed: whole numbers from 1"),
        ("[instances]\ncount = -2", "instances.count is -2"),
        ("[queue]\nmax_size = 0", "queue.max_size is 0; allowed: whole numbers from 1"),
        ("[queue]\npriority_levels = 65", "queue.priority_levels is 65; allowed: whole numbers from 0 to 64"),
        ("[queue]\npriority_levels = 2\ndefault_priority = 5", "default_priority is 5; there are 2 priority levels"),
        ("[queue.levels.x]\nmax_size = 1", "queue.levels has 'x'; there are 0 priority levels"),
        ("[queue]\npriority_levels = 1\n[queue.levels.1]\ntimeout_action = 'wait'", "queue.levels.1.timeout_action is 'wait'"),
        ("[queue]\npriority_levels = 1\n[queue.levels.1]\nmax_sise = 1", "unknown key 'queue.levels.1.max_sise'; did you mean"),
        ("[versions]\nkeep = [1]", "versions.keep is [1]; policy 'latest' takes a number from 1"),
        ("[versions.labels]\nStable = 1", "versions.labels has a key that is not allowed; allowed are names of a-z"),
        ("[metrics]\nseconds_buckets = [3, 2]", "metrics.seconds_buckets must be rising numbers"),
        ("[postprocess]\ntop_k = {y = 0}", "postprocess.top_k.y is 0; allowed: whole numbers from 1"),
        ("[[warmup.samples]]\ninputs.x = {data = 'rand'}", "warmup.samples[0].inputs.x.data is 'rand'; allowed: 'zero', 'random'"),
        ("[[ensemble.steps]]\nmodle = 'a'", "unknown key 'ensemble.steps[0].modle'; did you mean 'model'?"),
        ("[[ensemble.steps]]\nmodel = 'a'", "ensemble.steps[0] lacks 'inputs'"),
    ],
)  # fmt: skip
def test_errors_of_a_model(toml, words):
    with pytest.raises(ConfigError, match=re.escape("config.toml: ") + ".*" + re.escape(words)):
        convert(ModelConfig, tomllib.loads(toml), "config.toml")


def test_settings_made_in_code_are_checked_too():
    with pytest.raises(ConfigError, match=r"settings: limits\.max_connections is -5"):
        Server("anything.hr", settings=Settings(limits=Limits(max_connections=-5)))


def test_a_secret_in_the_wrong_place_is_not_repeated(tmp_path):
    (tmp_path / "tokens.toml").write_text("[[token]]\nname = 'a'\nroles = ['infer']\nsha256 = ['hunter2']\n")
    with pytest.raises(ConfigError) as caught:
        Guard(Auth(tokens=str(tmp_path / "tokens.toml")))
    assert "token[0]" in str(caught.value) and "hunter2" not in str(caught.value)


def test_every_option_of_the_command_is_a_setting():
    from headrace.cli.serve import command

    own = {"models", "store", "allow_grpc", "allow_http", "config", "as_json", "traceback", "help"}
    assert {option.name for option in command.params} - own <= set(FLAGS)
    for section, key in FLAGS.values():
        assert hasattr(getattr(Settings(), section), key)


def test_missing_file_and_bad_environment(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.toml"):
        settings_from({"config": str(tmp_path / "none.toml")}, {})
    with pytest.raises(ConfigError, match="HEADRACE_THREADS"):
        settings_from({}, {"HEADRACE_THREADS": "many"})


def test_a_version_may_be_a_time():
    found = convert(ModelConfig, {"versions": {"keep": 20261128093000, "labels": {"stable": 20261128093000}}}, "x")
    assert found.versions.keep == found.versions.labels["stable"] == 20261128093000
