import json
import stat

import pytest

from components.serving.errors import KeyFileError, OpenServiceError
from components.serving.keys import Allowance, KeyRing, add_key, digest, read_keys
from components.serving.options import ServiceOptions


def test_a_file_of_keys_holds_no_key(tmp_path):
    path = tmp_path / "keys.json"
    first, second = add_key(path, "a"), add_key(path, "b", requests_per_minute=3)
    assert first not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    ring = KeyRing(read_keys(path))
    assert [ring.find(key).name for key in (first, second)] == ["a", "b"]
    assert ring.find(digest(first)) is None
    again = add_key(path, "a")
    ring = KeyRing(read_keys(path))
    assert ring.find(first) is None
    assert ring.find(again).name == "a"
    path.write_text(json.dumps([{"who": 1}]))
    with pytest.raises(KeyFileError, match="no file of API keys"):
        read_keys(path)


def test_an_allowance_fills_up_again():
    now = [0.0]
    allowance = Allowance(60, now=lambda: now[0])
    allowance.take(60)
    assert allowance.wait_s() == pytest.approx(1)
    now[0] = 1.0
    assert allowance.wait_s() == 0
    allowance.take(31)  # a request is answered whatever it turns out to cost
    now[0] = 2.0
    assert allowance.wait_s() == pytest.approx(30)
    now[0] = 1000.0
    allowance.take(0)
    assert allowance.wait_s() == 0
    assert Allowance(0).wait_s() == 0


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7", "::", "example.org"])
def test_no_service_without_keys_beyond_this_machine(host):
    with pytest.raises(OpenServiceError, match="embedloom key"):
        ServiceOptions(host=host).check()
    ServiceOptions(host="127.0.0.1").check()
    ServiceOptions(host="::1").check()
    ServiceOptions(host="localhost").check()
