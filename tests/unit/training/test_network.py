"""The interface over which training workers meet."""

import os

import psutil
import pytest
import ray

from components.training.network import name_interface


@pytest.mark.parametrize("told", [None, "eth7"])
def test_it_is_the_one_with_the_address_of_the_node(monkeypatch, told):
    address = {name: [each.address for each in found] for name, found in psutil.net_if_addrs().items()}
    (loopback,) = (name for name, found in address.items() if "127.0.0.1" in found)
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(variable, told or "")
        if told is None:
            monkeypatch.delenv(variable)
    name_interface()
    assert os.environ["GLOO_SOCKET_IFNAME"] == os.environ["NCCL_SOCKET_IFNAME"] == (told or loopback)
