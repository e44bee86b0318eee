# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starts a stand-in for a vCenter server, and lets a test rule it.

    with vcenter(tmp_path) as server:
        server.set(lease_timeout_s=2)
        server.fault("HttpNfcLeaseComplete", "Timedout", times=1)
        server.govc("import.ova", "-name", "web1", str(package))
        assert not server.live_leases

What in it is govmomi's real simulator and what is ours is said in go/vsphere/vcenter/main.go; what each setting and
each rule means, in settings.go and nfc.go beside it, and in go/front/rules.go and turns.go.
"""

from __future__ import annotations

import hashlib
import json
import os
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.tools import gotools

from .faults import until
from .web_server import certificate

NEWEST = "vsphere"
OLD = "vsphere-0.24"
"""The simulator as it was in v0.24.2, with its own leases: only what is told of SOAP calls works there."""

USERNAME = "administrator@vsphere.local"
PASSWORD = "Secret-4-you"  # of a server that lives as long as a test

_POOL = "/DC0/host/DC0_C0/Resources"
_ESX_POOL = "/ha-datacenter/host/localhost.localdomain/Resources"
_REQUEST_S = 60.0  # a machine under load; none of what is asked waits for anything


class Vcenter:
    """A running server. It listens on the loopback, by TLS only, and ends with the process that started it."""

    host = "127.0.0.1"
    username = USERNAME
    password = PASSWORD

    def __init__(self, told: Mapping[str, Any], cafile: Path, pid: int) -> None:
        self.pid = pid
        self.port = int(told["port"])
        self.version = str(told["version"])
        self.api_version = str(told["api_version"])
        self.cafile = cafile
        """What a client has to trust to find the server's certificate good (for 127.0.0.1 and localhost)."""
        der = ssl.PEM_cert_to_DER_cert(_certificate_part(cafile))
        self.thumbprint = _colons(hashlib.sha1(der).hexdigest())
        self.thumbprint_sha256 = _colons(hashlib.sha256(der).hexdigest())
        self.host_ports: list[int] = told.get("host_ports", [])
        """Where ESXi hosts take uploads, by the settings host_uploads and hosts; nobody trusts their certificates."""
        self.pool = str(told["pool"])
        """The inventory path of a resource pool."""
        self._control = "http://127.0.0.1:%d" % told["control_port"]

    @property
    def options(self) -> dict[str, Any]:
        """How a task names it; the certificate is trusted by the environment of :attr:`environ`."""
        return {"hostname": self.host, "port": self.port, "username": self.username, "password": self.password}

    @property
    def environ(self) -> dict[str, str]:
        """Variables that make Python's clients trust the certificate."""
        return {"SSL_CERT_FILE": str(self.cafile)}

    # --- what a test looks at

    @property
    def state(self) -> dict[str, Any]:
        """Everything that the server tells of itself."""
        answer = self._ask("GET", "/state")
        assert isinstance(answer, dict)
        return answer

    @property
    def leases(self) -> list[dict[str, Any]]:
        """All ever: lease, state, alive, session, user, entity, entity_name, task, pull, percents, fault, text."""
        return list(self.state["leases"])

    @property
    def live_leases(self) -> list[dict[str, Any]]:
        """Those that have not ended."""
        return [lease for lease in self.leases if lease["alive"]]

    @property
    def sessions(self) -> list[dict[str, Any]]:
        """Logins that were not logged out and did not expire."""
        return list(self.state["sessions"])

    @property
    def uploads(self) -> list[dict[str, Any]]:
        """Requests that brought files: target, method, port, headers, length, bytes, sha1, sha256, status, …"""
        return list(self.state["uploads"])

    @property
    def counts(self) -> dict[str, int]:
        """How often each SOAP method was called since the start or :meth:`forget_calls`."""
        return dict(self.state["counts"])

    @property
    def calls(self) -> list[str]:
        """The SOAP methods in the order of their calls, likewise."""
        return [call["method"] for call in self.state["calls"]]

    def forget_calls(self) -> None:
        """Begins to count anew."""
        self._ask("DELETE", "/calls")

    def forget_uploads(self) -> None:
        """Forgets uploads, and leases that have ended: for a server that serves many rounds."""
        self._ask("DELETE", "/uploads")

    # --- what a test changes

    def set(self, **settings: Any) -> None:
        """Changes settings (go/vsphere/vcenter/settings.go): strict, lease_timeout_s, lease_begins, …"""
        self._ask("POST", "/settings", settings)

    def fault(
        self, method: str, fault: str, text: str = "", fields: Mapping[str, str] | None = None, **when: int
    ) -> int:
        """Calls of a SOAP method are answered by a fault of the API; `first` and `times` say which calls."""
        return self.rule(method, "fault", fault=fault, text=text, fields=dict(fields or {}), **when)

    def rule(self, method: str, do: str, **details: Any) -> int:
        """What happens to calls of a SOAP method (go/front/rules.go): fault, drop, lose_reply, hold, …"""
        return int(self._ask("POST", "/rules", {"method": method, "do": do, **details})["id"])

    def release(self, rule: int = 0) -> None:
        """Ends a rule for SOAP calls, and lets go of what it holds; all rules, if none is named."""
        self._ask("DELETE", "/rules/%d" % rule)

    def held(self, rule: int) -> int:
        """How many calls a rule holds now."""
        return sum(entry["holding"] for entry in self.state["rules"] if entry["id"] == rule)

    def wait_held(self, rule: int) -> None:
        """Until a rule holds a call."""
        until(lambda: self.held(rule) > 0, "a call to be held")

    def upload_rule(self, do: str, **details: Any) -> int:
        """What happens to uploads (go/vsphere/vcenter/nfc.go): status, reset, stall, pause, silent."""
        return int(self._ask("POST", "/nfc-rules", {"do": do, **details})["id"])

    def release_uploads(self, rule: int = 0) -> None:
        """Ends a rule for uploads, and lets go of what it holds; all rules, if none is named."""
        self._ask("DELETE", "/nfc-rules/%d" % rule)

    def fail_leases(self, fault: str, text: str = "", fields: Mapping[str, Any] | None = None) -> None:
        """All leases that are alive end in this error, as where a host breaks down or a datastore is full."""
        self._ask("POST", "/fail-leases", {"fault": fault, "text": text, "fields": dict(fields or {})})

    def expire_sessions(self) -> None:
        """All logins are void from now on."""
        self._ask("POST", "/expire-sessions")

    def forget_tasks(self) -> None:
        """The recent tasks are none any more, as some minutes after they ended. Their history stays."""
        self._ask("POST", "/forget-tasks")

    def set_free_space(self, datastore: str, size: int, kind: str = "VMFS", refreshed: int | None = None) -> None:
        """What a datastore says to have left, in bytes, and what it says to be (DatastoreSummary.type). `refreshed` is
        what it says after RefreshDatastore, where that is something else.
        """
        asked = {"datastore": datastore, "bytes": size, "type": kind, "refreshed": refreshed}
        self._ask("POST", "/free-space", asked)

    def _ask(self, method: str, path: str, content: Any = None) -> Any:
        body = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(
            self._control + path, body, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=_REQUEST_S) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise ValueError(error.read().decode().strip()) from None

    # --- the independent witness

    def govc_environ(self) -> dict[str, str]:
        """What govc has to know."""
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("GOVC_")},
            "GOVC_URL": "https://%s:%d/sdk" % (self.host, self.port),
            "GOVC_USERNAME": self.username,
            "GOVC_PASSWORD": self.password,
            "GOVC_TLS_CA_CERTS": str(self.cafile),
            "GOVC_PERSIST_SESSION": "false",
            "GOVC_DATASTORE": "LocalDS_0",
            "GOVC_RESOURCE_POOL": self.pool,
        }

    def start_govc(self, *arguments: str, environ: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Begins a govc, for the test to end it or to wait for it."""
        return subprocess.Popen(
            [str(gotools.built(NEWEST) / "govc"), *arguments],
            env=environ or self.govc_environ(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def govc(self, *arguments: str, environ: Mapping[str, str] | None = None, check: bool = True) -> str:
        """What govc says on its standard output; where `check` is off, on both, whatever its exit code is."""
        govc = self.start_govc(*arguments, environ=environ)
        output, errors = govc.communicate(timeout=_REQUEST_S)
        if not check:
            return output + errors
        assert govc.returncode == 0, "govc %s: %s" % (" ".join(arguments), errors)
        return output

    def govc_json(self, *arguments: str) -> Any:
        """What govc says, read as JSON."""
        return json.loads(self.govc(arguments[0], "-json", *arguments[1:]))

    def set_ip(self, machine: str, address: str) -> None:
        """The address that a machine's guest will tell of, once it runs."""
        self.govc("vm.change", "-vm", machine, "-e", "SET.guest.ipAddress=" + address)

    def machines(self) -> list[str]:
        """The inventory paths of all machines."""
        return sorted(self.govc("find", "/", "-type", "m").split())


@contextmanager
def vcenter(folder: Path, version: str = NEWEST, esx: bool = False, **model: int | str) -> Iterator[Vcenter]:
    """A server of its own for a test, with its certificate in a folder.

    `model` is what it has: datacenters, datastores, pods (datastore clusters, which begin empty: see govc object.mv),
    pools, machines; and api_version. With `esx` it is an ESXi host, asked without a vCenter.
    """
    pem = certificate(folder / "vcenter.pem", "localhost")
    cafile = folder / "vcenter-ca.pem"
    cafile.write_text(_certificate_part(pem))
    options = {"password": PASSWORD, "certificate": str(pem), **model}
    if version == NEWEST:
        hosts = [certificate(folder / ("esxi%d.pem" % number)) for number in (1, 2)]
        options["host_certificates"] = ",".join(map(str, hosts))
    command = [str(gotools.built(version) / "vcenter")]
    command += ["-%s=%s" % (name.replace("_", "-"), value) for name, value in options.items()]
    command += ["-esx"] if esx else []
    log = folder / "vcenter.log"
    datastores = folder / "datastores"
    datastores.mkdir(exist_ok=True)
    with log.open("w") as output:
        # it ends when its standard input does: with us, however we end
        process = subprocess.Popen(
            command,
            env={**os.environ, "TMPDIR": str(datastores)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
        )
        with process:
            try:
                assert process.stdout is not None
                told = process.stdout.readline()
                assert told, log.read_text()
                yield Vcenter({"pool": _ESX_POOL if esx else _POOL, **json.loads(told)}, cafile, process.pid)
            finally:
                process.kill()


def _certificate_part(pem: Path) -> str:
    text = pem.read_text()
    return text[text.index("-----BEGIN CERTIFICATE-----") :]


def _colons(digest: str) -> str:
    return ":".join(digest[at : at + 2].upper() for at in range(0, len(digest), 2))
