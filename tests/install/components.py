# SPDX-License-Identifier: GPL-2.0-or-later
"""Which components Debian's installer will fetch from a mirror, as the mirror's index and the installer's CD say."""
import lzma
import re
import subprocess

INDEX = "/dists/{}/main/debian-installer/binary-amd64/Packages.xz"


def stanzas(text):
    for block in text.split("\n\n"):
        fields = dict(re.findall(r"^([\w-]+): (.*)$", block, re.MULTILINE))
        if "Package" in fields:
            yield fields


def names(value):
    """The alternatives of a list of packages, without their versions."""
    for part in filter(None, (part.strip() for part in value.split(","))):
        yield [re.sub(r"\(.*\)", "", name).strip() for name in part.split("|")]


def of_udeb(path):
    return next(stanzas(subprocess.run(["dpkg-deb", "-f", path], check=True, text=True, stdout=subprocess.PIPE).stdout))


class Set:
    """What is there before the mirror is asked: the CD's (its dpkg status), and udebs that are given by hand."""

    def __init__(self, index, status, given):
        there = list(stanzas(status))
        self.kernel = next(re.fullmatch(r"kernel-image-(.*)-di", fields["Package"])[1] for fields in there
                           if fields["Package"].startswith("kernel-image-"))
        self.given = {fields["Package"]: fields for fields in map(of_udeb, given)}
        self.there = {name for fields in there for name in self.provided(fields)}
        self.index, self.providers = {}, {}
        for fields in stanzas(index):
            if fields.get("Kernel-Version", self.kernel) == self.kernel:
                self.index[fields["Package"]] = fields
                for name in self.provided(fields):
                    self.providers.setdefault(name, []).append(fields["Package"])

    @staticmethod
    def provided(fields):
        return [fields["Package"]] + [name for part in names(fields.get("Provides", "")) for name in part]

    def needed(self, wanted):
        """These and all that they depend on, without what is there: (to be fetched, given). What a given one needs has to be
        given, too: only the kernel's modules are looked for."""
        found, left = {}, list(wanted)
        while left:
            name = left.pop()
            if name in found or name in self.there:
                continue
            fields = self.given.get(name) or self.index.get(name)
            if fields is None:
                raise ValueError(f"the mirror's index has no component {name}")
            found[name] = fields
            for alternatives in names(fields.get("Depends", "")):
                providers = [provider for one in alternatives for provider in self.providers.get(one, [])]
                if name in self.given and not alternatives[0].endswith("-modules") and not self.given.keys() & providers:
                    continue
                if not any(self.is_met(one, found, left) for one in alternatives):
                    left += providers[:1]
        return ({name: fields for name, fields in found.items() if name not in self.given},
                [name for name in found if name in self.given])

    def is_met(self, name, found, left):
        return name in self.there or any(provider in found or provider in left
                                         for provider in self.providers.get(name, [name]))


def index(server, release):
    status, body = server.fetch(INDEX.format(release))
    if status != 200:
        raise ValueError(f"the mirror has no components of the installer for {release}")
    return lzma.decompress(body).decode()
