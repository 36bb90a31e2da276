"""Training workers meet over the network that Ray's nodes meet over.

Gloo takes the interface that the host's name leads to, NCCL the first that is no loopback. On many a machine the name
leads to 127.0.0.1, where no other node is, and with several interfaces the first need not be the right one.
"""

import os
from typing import Any

import psutil
import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend


class NodeNetwork(TorchConfig):
    """`TorchConfig` for workers that find each other by the address of their node."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _Backend


class _Backend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(name_interface)
        super().on_start(worker_group, backend_config)


def name_interface() -> None:
    """Tell Gloo and NCCL which interface has the address of this process's node, if nobody has told them."""
    address = ray.util.get_node_ip_address()
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address == address for each in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", name)
