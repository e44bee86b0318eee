# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A server as a task declares it. The options are those of the documentation fragment ``vsphere_connection``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ansible.module_utils.basic import env_fallback

from .._core.errors import BadInput
from .session import Endpoint, Patience
from .tls import Proxy, Trust, read_thumbprint

# A server that gives no answer for so long is taken for gone; where the whole task has less time, sooner.
_CALL_S = 60.0
_SHORTEST_CALL_S = 5.0

CONNECTION_SPEC: Mapping[str, Mapping[str, object]] = {
    "hostname": {"type": "str", "fallback": (env_fallback, ["VMWARE_HOST"])},
    "username": {"type": "str", "aliases": ["user", "admin"], "fallback": (env_fallback, ["VMWARE_USER"])},
    "password": {
        "type": "str",
        "aliases": ["pass", "pwd"],
        "no_log": True,
        "fallback": (env_fallback, ["VMWARE_PASSWORD"]),
    },
    "port": {"type": "int", "default": 443, "fallback": (env_fallback, ["VMWARE_PORT"])},
    "validate_certs": {"type": "bool", "default": True, "fallback": (env_fallback, ["VMWARE_VALIDATE_CERTS"])},
    "ca_path": {"type": "path"},
    "thumbprint": {"type": "str"},
    "proxy_host": {"type": "str", "fallback": (env_fallback, ["VMWARE_PROXY_HOST"])},
    "proxy_port": {"type": "int", "fallback": (env_fallback, ["VMWARE_PROXY_PORT"])},
}
# What XML, in which a server is spoken to, has no way to write (XML 1.0, production 2).
_UNWRITABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_VARIABLES = {"hostname": "HOST", "username": "USER", "password": "PASSWORD"}


def endpoint_from(params: Mapping[str, Any]) -> Endpoint:
    """The server and the login. Raises BadInput."""
    for option, variable in _VARIABLES.items():
        if not params[option]:
            raise BadInput(option, "it isn't given", "Give it, or set VMWARE_%s" % variable)
    check_texts({option: params[option] for option in _VARIABLES})
    if "/" in params["hostname"]:
        raise BadInput("hostname", "%s is no host" % params["hostname"], "Give the name or the address alone")
    if not 0 < params["port"] < 65536:
        raise BadInput("port", "%d is no port" % params["port"], "Give one from 1 to 65535")
    thumbprint = read_thumbprint(params["thumbprint"]) if params["thumbprint"] else None
    proxy = Proxy(params["proxy_host"], params["proxy_port"] or 0) if params["proxy_host"] else None
    if proxy is not None and not 0 < proxy.port < 65536:
        raise BadInput("proxy_port", "%s is no port" % params["proxy_port"], "Give the proxy's port beside proxy_host")
    trust = Trust(params["validate_certs"], thumbprint, params["ca_path"])
    patience = Patience(max(_SHORTEST_CALL_S, min(_CALL_S, params["timeout"])))
    return Endpoint(params["hostname"], params["port"], params["username"], params["password"], patience, trust, proxy)


def check_texts(given: Mapping[str, object], within: str = "") -> None:
    """That a server can be told these values, and the names and values of mappings among them. Raises BadInput."""
    for name, value in given.items():
        option = "%s%s" % (within, name)
        if isinstance(value, Mapping):
            check_texts(value, option + ".")
        found = _UNWRITABLE.search(option + value if isinstance(value, str) else option)
        if found is not None:
            problem = "it has the character U+%04X, which no server can be told" % ord(found.group())
            raise BadInput(option, problem, "Leave that out")
