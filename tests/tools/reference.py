# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes docs/reference from what the modules and roles say of themselves, or checks that it fits."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tests.conftest import COLLECTIONS, link_collection
from tests.tools import environments, markup
from tests.tools.failure import Failure
from tests.tools.paths import ROOT, STATE

_REFERENCE = ROOT / "docs" / "reference"
_COLLECTION = "vmops.lifecycle"

# ansible-doc's JSON is a tree whose leaves are text, numbers and lists; it is read here only
_Tree = Mapping[str, Any]


def main() -> int:
    """Writes the pages; with --check only tells of those that differ, by exit code 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where something would be written")
    check = parser.parse_args().check
    link_collection()
    try:
        pages = _pages()
    except Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    there = {page.name: page.read_text() for page in _REFERENCE.glob("*.md")}
    stale = sorted(name for name in {*pages, *there} if pages.get(name) != there.get(name))
    if check:
        for name in stale:
            print(f"docs/reference/{name} doesn't fit the documentation in the modules; run: make docs")
        return 1 if stale else 0
    _REFERENCE.mkdir(parents=True, exist_ok=True)
    for name in stale:
        if name in pages:
            (_REFERENCE / name).write_text(pages[name])
        else:
            (_REFERENCE / name).unlink()
    return 0


def _pages() -> dict[str, str]:
    modules = _ask("module", [file.stem for file in sorted((ROOT / "plugins" / "modules").glob("*.py"))])
    roles = _ask("role", [file.parents[1].name for file in sorted((ROOT / "roles").glob("*/meta/argument_specs.yml"))])
    pages = {f"{name}.md": _module_page(name, tree) for name, tree in modules.items()}
    pages.update({f"role_{name}.md": _role_page(name, tree) for name, tree in roles.items()})
    pages["README.md"] = _index(modules, roles)
    return pages


def _ask(kind: str, names: Sequence[str]) -> dict[str, _Tree]:
    """What ansible-doc knows of these, by their short names."""
    if not names:
        return {}
    environment = environments.main()
    command = [environment.bin("ansible-doc"), "--type", kind, "--json", *(f"{_COLLECTION}.{name}" for name in names)]
    environ = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS), "ANSIBLE_HOME": str(STATE / "ansible-home")}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    found: dict[str, _Tree] = json.loads(done.stdout) if done.returncode == 0 else {}
    missing = [name for name in names if f"{_COLLECTION}.{name}" not in found]
    if missing:
        raise Failure(f"ansible-doc can't read {', '.join(missing)}: {done.stderr.strip()}")
    return {name: found[f"{_COLLECTION}.{name}"] for name in names}


def _index(modules: Mapping[str, _Tree], roles: Mapping[str, _Tree]) -> str:
    lines = ["# Reference", "", "Written from the modules' and roles' own documentation by `make docs`.", ""]
    if modules:
        lines += ["| module | what it does |", "|---|---|"]
        lines += [f"| [{n}]({n}.md) | {markup.cell(tree['doc']['short_description'])} |" for n, tree in modules.items()]
        lines += [""]
    if roles:
        lines += ["| role | what it does |", "|---|---|"]
        for name, tree in roles.items():
            lines.append(f"| [{name}](role_{name}.md) | {markup.cell(_entry(tree).get('short_description', ''))} |")
        lines += [""]
    return _page(lines)


def _module_page(name: str, tree: _Tree) -> str:
    doc = tree["doc"]
    lines = [f"# {_COLLECTION}.{name}", "", f"{markup.text(doc['short_description'])}.", ""]
    lines += [f"Since version {doc['version_added']}.", ""]
    lines += _paragraphs(doc.get("description"))
    lines += _bullets("Requirements", doc.get("requirements"))
    lines += ["## Options", "", *_options(doc.get("options", {})), ""]
    lines += _attributes(doc.get("attributes", {}))
    lines += _bullets("Notes", doc.get("notes"))
    lines += _see_also(doc.get("seealso", []))
    if tree.get("examples"):
        lines += ["## Examples", "", "```yaml", tree["examples"].strip("\n"), "```", ""]
    if tree.get("return"):
        lines += ["## Result", "", *_results(tree["return"]), ""]
    return _page(lines)


def _role_page(name: str, tree: _Tree) -> str:
    entry = _entry(tree)
    lines = [f"# The role {_COLLECTION}.{name}", ""]
    lines += [f"{markup.text(entry['short_description'])}.", ""] if entry.get("short_description") else []
    lines += _paragraphs(entry.get("description"))
    return _page([*lines, "## Variables", "", *_options(entry.get("options", {})), ""])


def _entry(tree: _Tree) -> _Tree:
    entry: _Tree = tree["entry_points"]["main"]
    return entry


def _page(lines: Sequence[str]) -> str:
    return "\n".join(lines).rstrip("\n") + "\n"


def _paragraphs(told: object) -> Iterator[str]:
    for sentence in markup.sentences(told):
        yield from (markup.text(sentence), "")


def _bullets(title: str, told: object) -> list[str]:
    bullets = [f"- {markup.text(sentence)}" for sentence in markup.sentences(told)]
    return [f"## {title}", "", *bullets, ""] if bullets else []


def _options(options: _Tree, depth: int = 0) -> Iterator[str]:
    """An item an option, those of a dictionary below it."""
    for name in sorted(options):
        option = options[name]
        yield from _item(depth, f"**{name}** ({_kind(option)})", option, _limits(option))
        yield from _options(option.get("options") or option.get("suboptions") or {}, depth + 1)


def _results(results: _Tree, depth: int = 0) -> Iterator[str]:
    for name, result in results.items():
        facts = [f"Returned: {markup.text(str(result['returned']))}."] if result.get("returned") else []
        if "sample" in result:
            facts.append(f"Sample: {markup.code(json.dumps(result['sample'], ensure_ascii=False))}")
        yield from _item(depth, f"**{name}** ({_kind(result)})", result, facts)
        yield from _results(result.get("contains") or {}, depth + 1)


def _item(depth: int, head: str, tree: _Tree, facts: Sequence[str]) -> Iterator[str]:
    told = [markup.text(sentence) for sentence in markup.sentences(tree.get("description"))]
    yield f"{'  ' * depth}- {head}: {' '.join([*told, *facts])}".rstrip()


def _kind(tree: _Tree) -> str:
    kind = str(tree.get("type", "str"))
    return f"{kind} of {tree['elements']}" if tree.get("elements") else kind


def _limits(option: _Tree) -> list[str]:
    limits = ["Required."] if option.get("required") else []
    if option.get("choices"):
        limits.append(f"One of {', '.join(markup.code(_plain(choice)) for choice in option['choices'])}.")
    if option.get("default") is not None:
        limits.append(f"Default: {markup.code(_plain(option['default']))}.")
    if option.get("aliases"):
        limits.append(f"Also called {', '.join(markup.code(alias) for alias in option['aliases'])}.")
    return limits


def _plain(value: object) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def _attributes(attributes: _Tree) -> list[str]:
    if not attributes:
        return []
    rows = []
    for name, attribute in attributes.items():
        told = " ".join([*markup.sentences(attribute["description"]), *markup.sentences(attribute.get("details"))])
        rows.append(f"| {name} | {attribute['support']} | {markup.cell(told)} |")
    return ["## Attributes", "", "| attribute | support | meaning |", "|---|---|---|", *rows, ""]


def _see_also(entries: Sequence[_Tree]) -> list[str]:
    lines = [f"- {_see(entry)}" for entry in entries]
    return ["## See also", "", *lines, ""] if lines else []


def _see(entry: _Tree) -> str:
    if "module" in entry:
        seen = markup.module(entry["module"])
    elif "link" in entry:
        seen = f"[{entry['name']}]({entry['link']})"
    else:
        seen = markup.code(str(entry.get("plugin") or entry.get("ref")))
    told = " ".join(markup.text(sentence) for sentence in markup.sentences(entry.get("description")))
    return f"{seen}: {told}" if told else seen


if __name__ == "__main__":
    sys.exit(main())
