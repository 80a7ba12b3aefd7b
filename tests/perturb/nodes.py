"""A testnet whose links can be cut and whose disks can be slow."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from node.config import CONFIG_NAME, PeerConfig, RpcConfig, render_config
from node.testnet import LOG_NAME, ChainPlan, Founder, Testnet
from tests.perturb.links import Links, Proxy
from tests.perturb.namespaces import BASE_PORT, Namespaces
from tests.perturb.slowdisk import SlowDisks


class PerturbNet(Testnet):
    """Nodes that reach each other through ``links`` alone.

    ``disks`` is None where no compiler is found. Leaving the context stops nodes and links.
    """

    links: Links
    disks: SlowDisks | None = None
    _prefix: Callable[[int], list[str]] | None = None

    @classmethod
    async def open(
        cls, root: Path, count: int, plan: ChainPlan, *, namespaces: bool = False, slow_disks: bool = True
    ) -> "PerturbNet":
        """Write the directories of ``count`` founders and make the links; nothing is started."""
        founders = [
            Founder("grid", "grid-operator"),
            *(Founder(f"provider-{number}", "service-provider") for number in range(1, count)),
        ]
        net = cls.create(root / "net", founders, plan)
        assert isinstance(net, PerturbNet)
        if namespaces:
            net._use_namespaces()
        else:
            await net._use_proxy()
        if slow_disks:
            net.disks = SlowDisks(root, count)
            net.disks.build()
        return net

    async def _use_proxy(self) -> None:
        proxy = Proxy()
        self.links = Links(proxy)
        ways = await proxy.listen([node.config.listen for node in self.nodes])
        keys = [node.keys.identity_key for node in self.nodes]
        for number, node in enumerate(self.nodes):
            others = [other for other in range(len(self.nodes)) if other != number]
            node.config = replace(
                node.config, peers=tuple(PeerConfig(ways[number, other], keys[other]) for other in others)
            )
        self._write()

    def _use_namespaces(self) -> None:
        spaces = Namespaces(len(self.nodes))
        self.links = Links(spaces)
        self._prefix = spaces.command
        spaces.open()
        keys = [node.keys.identity_key for node in self.nodes]
        listens = [spaces.endpoint(number, BASE_PORT) for number in range(len(self.nodes))]
        for number, node in enumerate(self.nodes):
            rpc = RpcConfig(spaces.endpoint(number, BASE_PORT - 1), (spaces.network,))
            others = [other for other in range(len(self.nodes)) if other != number]
            peers = tuple(PeerConfig(listens[other], keys[other]) for other in others)
            node.config = replace(node.config, listen=listens[number], rpc=rpc, peers=peers)
        self._write()

    def _write(self) -> None:
        for node in self.nodes:
            (node.config.datadir / CONFIG_NAME).write_text(render_config(node.config))

    def start(self, index: int) -> None:
        """As a testnet does, in the node's namespace and with its own disk."""
        node = self.nodes[index]
        if node.is_running:
            return
        command = [sys.executable, "-m", "node", "run", "--datadir", str(node.config.datadir)]
        prefix = [] if self._prefix is None else self._prefix(index)
        extra = self.disks.environment(index) if self.disks is not None else {}
        with (node.config.datadir / LOG_NAME).open("ab") as output:
            node.process = subprocess.Popen(
                [*prefix, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env=os.environ | extra,
            )

    async def __aexit__(self, *_: object) -> None:
        for node in self.nodes:
            if node.process is not None and node.is_running:
                node.process.send_signal(signal.SIGCONT)  # a process that stands still hears no SIGTERM
        try:
            await self.stop()
        finally:
            await self.links.fabric.close()
