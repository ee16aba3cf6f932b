# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest's way to a mirror of Debian: a server on this host's loopback, which passes on what the mirror has."""
import http.server
import os
import shutil
import subprocess
import tempfile
import threading
import urllib.error
import urllib.request

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
INDEXES = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Origin: Debian", "Created-By: Packages", "Component: main"]


class Missing(Exception):
    pass


def of_this_host():
    """The first of apt's sources that is a mirror of Debian itself."""
    listed = subprocess.run(INDEXES, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False).stdout.split()
    return next((uri.rstrip("/") for uri in listed if uri.rstrip("/").endswith("/debian")), None)


def proxies():
    """As apt uses them."""
    found = {}
    for scheme in ("http", "https"):
        line = subprocess.run(["apt-config", "shell", "proxy", f"Acquire::{scheme}::Proxy"], text=True, stdout=subprocess.PIPE,
                              check=False).stdout.strip()
        if line:
            found[scheme] = line.partition("=")[2].strip("'")
    return found or None  # None: those of the environment


def download(uri, release, section, names, folder):
    """Downloads packages of a release's section, with apt, which checks signatures; their paths."""
    apt = tempfile.mkdtemp(prefix="apt-", dir=folder)
    for below in ("etc/apt/preferences.d", "var/lib/apt/lists/partial", "var/cache/apt/archives/partial"):
        os.makedirs(os.path.join(apt, below))
    with open(os.path.join(apt, "etc/apt/sources.list"), "w", encoding="ascii") as file:
        file.write(f"deb [signed-by={KEYRING}] {uri} {release} {section}\n")
    config = os.path.join(apt, "apt.conf")
    with open(config, "w", encoding="ascii") as file:
        file.write(f'Dir "{apt}"; Dir::State::status "/dev/null"; APT::Sandbox::User "root"; APT::Architecture "amd64";\n'
                   'Acquire::Languages "none";\n')
        for scheme, proxy in (proxies() or {}).items():
            file.write(f'Acquire::{scheme}::Proxy "{proxy}";\n')
    for words in (["update"], ["download", *names]):
        done = subprocess.run(["apt-get", "-q", *words], cwd=folder, env=dict(os.environ, APT_CONFIG=config), text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            raise Missing(f"apt-get {' '.join(words)}: {done.stdout.strip()}")
    shutil.rmtree(apt)
    return [os.path.join(folder, file) for file in os.listdir(folder) if file.partition("_")[0] in names]


class Server:
    """Serves pages of its own, files, and below /debian/ the mirror; what never changes there is kept in `cache`."""

    def __init__(self, uri, cache):
        os.makedirs(cache, exist_ok=True)
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                status, body = outer.get(self.path)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        self.uri, self.cache, self.udebs, self.pages = uri, cache, {}, {}
        self.files = self.bytes = 0
        self.refused = []  # packages that the mirror does not have, though its index names them
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies()))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def get(self, path):
        if path in self.pages:
            return 200, self.pages[path]
        folder, _, name = path.rpartition("/")
        if folder == "/udebs" and name in self.udebs:
            with open(self.udebs[name], "rb") as file:
                return 200, file.read()
        if not path.startswith("/debian/") or ".." in path:
            return 404, b""
        status, body = self.fetch(path[len("/debian"):])
        self.files += status == 200
        self.bytes += len(body)
        return status, body

    def has(self, path):
        try:
            with self.opener.open(urllib.request.Request(self.uri + path, method="HEAD"), timeout=60) as answer:
                return answer.status == 200
        except urllib.error.HTTPError:
            return False

    def fetch(self, path):
        constant = path.startswith("/pool/")
        kept = os.path.join(self.cache, path.rpartition("/")[2])
        if constant and os.path.exists(kept):
            with open(kept, "rb") as file:
                return 200, file.read()
        try:
            with self.opener.open(self.uri + path, timeout=60) as answer:
                body = answer.read()
        except urllib.error.HTTPError as error:
            if constant:
                self.refused.append(path)
            return error.code, b""
        except OSError:
            return 504, b""
        if constant:
            own = f"{kept}.{threading.get_ident()}"
            with open(own, "wb") as file:
                file.write(body)
            os.rename(own, kept)
        return 200, body
