# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """The options that say where a package is."""

    DOCUMENTATION = r"""
options:
  source:
    description:
      - The package, a C(.ovf) file with the files that belong to it beside it, or a C(.ova) archive. What it is, its
        content tells, not its name.
      - A path on the managed host, or a URL (V(http) or V(https)). What a URL has of credentials or in its query isn't
        shown in results.
      - A server is asked for the parts that are needed. One that can't answer by ranges has to send the package from
        its beginning for each of them.
    type: str
    required: true
  url_username:
    description: The user that the server of a URL wants. It is told to that server alone, wherever that redirects to.
    type: str
  url_password:
    description: That user's password.
    type: str
  url_headers:
    description:
      - More headers for that server, such as C(Authorization) with a token. They go to it alone, too.
    type: dict
    default: {}
  url_validate_certs:
    description:
      - Whether the server of a V(https) URL has to prove who it is. Without it anybody between here and there can give
        you another package.
    type: bool
    default: true
  url_ca_path:
    description:
      - A file with the certificates (PEM) of those who may sign the server's. By default those whom the managed host
        trusts.
    type: path
  url_use_proxy:
    description: Whether a proxy that the environment names (C(https_proxy), C(no_proxy), …) is used for URLs.
    type: bool
    default: true
  verify:
    description:
      - Whether the package's manifest (C(.mf)) and the certificate of who signed that (C(.cert)) count.
      - With V(if_present) a manifest that is there has to be right about all that it names, and a signature has to be
        that of the manifest, whoever signed it.
      - With V(required) the manifest has to be there, and to name the descriptor and each file that this refers to.
      - With V(signed) it besides has to be signed by somebody whom the host trusts, with a certificate in its dates.
      - With V(ignore) neither is looked at.
      - Signatures are verified by C(openssl). Without it they only count for V(signed), which fails then.
    type: str
    choices: [ignore, if_present, required, signed]
    default: if_present
  stall_timeout:
    description:
      - Seconds for which a server may be silent until it is taken for gone. What breaks off is resumed where it was,
        some times.
    type: int
    default: 60
"""
