#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may do what, over TLS:  access_test.py CASE --build BUILD --guest G"""
import concurrent.futures
import contextlib
import hashlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import time

import jsonschema

import rig
from rig import Daemon, case
from host import LIMIT, check, equal, free_port, until

ROLES = ["viewer", "operator", "admin"]
PASSWORD = "correct horse"
UPGRADE = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}


def certificates(folder):
    """A CA, the server's certificate, a client's, one of somebody else's CA, and one of nobody."""
    def run(*words):
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    for ca in ("ca", "other"):
        run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", ca + ".key", "-out",
            ca + ".pem", "-subj", "/CN=" + ca, "-days", "2", "-addext", "basicConstraints=critical,CA:true")
    for name, ca in (("server", "ca"), ("client", "ca"), ("stranger", "other"), ("nameless", "ca")):
        run("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", name + ".key", "-out", name + ".csr",
            "-subj", {"stranger": "/CN=client", "nameless": "/O=somebody"}.get(name, "/CN=" + name))
        with open(os.path.join(folder, "ext"), "w", encoding="ascii") as file:
            file.write("subjectAltName=IP:127.0.0.1\n")
        run("x509", "-req", "-in", name + ".csr", "-CA", ca + ".pem", "-CAkey", ca + ".key", "-CAcreateserial", "-out",
            name + ".pem", "-days", "2", "-extfile", "ext")


CA = """[ca]
default_ca = own
[own]
database = index
new_certs_dir = .
certificate = ca.pem
private_key = ca.key
default_md = sha256
policy = any
rand_serial = yes
default_crl_days = 2
unique_subject = no
[any]
commonName = supplied
"""


def odd_certificates(folder):
    """Of users all of them: over, not yet good, revoked, by nobody but itself, by a CA that is none. And lists of revoked ones."""
    def run(*words):
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    for name, text in (("ca.cnf", CA), ("index", "")):
        with open(os.path.join(folder, name), "w", encoding="ascii") as file:
            file.write(text)
    new = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    for name, start, end in (("over", "20200101000000Z", "20200201000000Z"), ("future", "20900101000000Z", "20910101000000Z"),
                             ("revoked", None, "20910101000000Z")):
        run(*new, "-keyout", name + ".key", "-out", name + ".csr", "-subj", f"/CN={name}")
        run("ca", "-config", "ca.cnf", "-batch", "-notext", "-in", name + ".csr", "-out", name + ".pem",
            *(["-startdate", start] if start else []), "-enddate", end)
    run(*new, "-x509", "-keyout", "self.key", "-out", "self.pem", "-subj", "/CN=self", "-days", "2")
    run(*new, "-keyout", "below.key", "-out", "below.csr", "-subj", "/CN=below")
    run("x509", "-req", "-in", "below.csr", "-CA", "client.pem", "-CAkey", "client.key", "-CAcreateserial", "-out", "below.pem", "-days", "2")
    with open(os.path.join(folder, "below.pem"), "a", encoding="ascii") as below, \
            open(os.path.join(folder, "client.pem"), encoding="ascii") as client:
        below.write(client.read())
    run("ca", "-config", "ca.cnf", "-revoke", "revoked.pem")
    run("ca", "-config", "ca.cnf", "-gencrl", "-out", "crl.pem")
    run("ca", "-config", "ca.cnf", "-gencrl", "-crl_lastupdate", "20200101000000Z", "-crl_nextupdate", "20200201000000Z", "-out", "old.crl.pem")


class Remote(Daemon):
    """One that is served by TLS, too."""

    def __init__(self, folder, *options):
        certificates(folder)
        self.port = free_port()
        path = {name: os.path.join(folder, name) for name in os.listdir(folder)}
        super().__init__(folder, "--listen", f"127.0.0.1:{self.port}", "--tls-cert", path["server.pem"], "--tls-key",
                         path["server.key"], "--tls-ca", path["ca.pem"], *options)

    def ask(self, method, path, body=None, token=None, certificate=None, socket=False):
        context = ssl.create_default_context(cafile=os.path.join(self.folder, "ca.pem"))
        if certificate:
            context.load_cert_chain(os.path.join(self.folder, certificate + ".pem"), os.path.join(self.folder, certificate + ".key"))
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=context, timeout=LIMIT)
        connection.request(method, path, json.dumps(body) if body is not None else None,
                           {**({"Authorization": "Bearer " + token} if token else {}), **(UPGRADE if socket else {})})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, json.loads(text) if text[:1] in (b"{", b"[") else text

    def login(self, user, password=PASSWORD, **fields):
        status, answer = self.ask("POST", "/v1/tokens", {"user": user, "password": password, **fields})
        equal(status, 201, str(answer))
        return answer["token"]


class Judge:
    """Answers against the document, by a validator of somebody else's."""

    def __init__(self, document):
        self.document, self.schemas = document, {}

    def operation(self, path, method):
        return self.document["paths"][path][method]

    def answer(self, path, method, status, body):
        answers = self.operation(path, method)["responses"]
        found = answers.get(str(status)) or answers.get(f"{status // 100}XX")
        check(found, f"{method} {path}: the document knows no answer {status}: {body}")
        if "$ref" in found:
            found = self.document["components"]["responses"][found["$ref"].rsplit("/", 1)[1]]
        schema = found.get("content", {}).get("application/json", {}).get("schema")
        check(schema is not None or not isinstance(body, (dict, list)), f"{method} {path}: {status} has a body: {body}")
        if schema is None:
            return
        if (path, method, status // 100) not in self.schemas:
            whole = {**schema, "components": self.document["components"]}
            jsonschema.Draft202012Validator.check_schema(whole)
            self.schemas[path, method, status // 100] = jsonschema.Draft202012Validator(whole)
        try:
            self.schemas[path, method, status // 100].validate(body)
        except jsonschema.ValidationError as e:
            raise AssertionError(f"{method} {path}: {status}: {e.message} in {json.dumps(body)[:2000]}") from e


class Asker:
    """Somebody with a token, and what the rules say of them."""

    def __init__(self, name, token, role, vm=None, limited=False, own=None):
        self.name, self.token, self.role, self.vm, self.limited, self.own, self.vm_id = name, token, role, vm, limited, own, None

    def renew(self, d, admin):
        """A token for one VM is for that VM, not for the next of its name."""
        if not self.vm or self.vm_id == (now := d.vm(self.vm)["id"]):
            return
        self.vm_id = now
        status, made = d.ask("POST", "/v1/tokens", {"name": f"{self.name}-{now}", "vm": self.vm}, admin)
        equal(status, 201, made)
        self.token = made["token"]

    def verdict(self, kind, method, needed, which):
        """401, 403 or 404 where they are refused; None: let in."""
        if self.role is None:
            return 401
        if (kind, method, which) == ("tokens", "post", None):  # logging in needs no role
            return 403 if self.limited else None
        if self.vm and which is None:
            return None if kind in ("vms", "jobs", "openapi.json") and needed == "viewer" else 403
        if self.vm and kind != "hosts":
            return None if kind == "vms" and which == self.vm else 404
        if kind == "tokens" and which and self.role != "admin" and which != self.own:
            return 404
        role = "operator" if kind == "vms" and which == self.own and self.role == "viewer" and not self.limited else self.role
        return 403 if self.vm or ROLES.index(role) < ROLES.index(needed) else None


def askers(d):
    """Each role; who owns a VM; tokens with less than their user has; nobody."""
    d.ok("POST", "/v1/users", {"name": "owner", "role": "operator", "password": PASSWORD})
    tokens = {name: d.login(name) for name in ("owner",)}
    for role in ROLES:
        d.ok("POST", "/v1/users", {"name": role, "role": role, "password": PASSWORD})
        tokens[role] = d.login(role)
    things(d, tokens["owner"])
    for name, user in (("less", "admin"), ("its", "owner")):
        status, made = d.ask("POST", "/v1/tokens", {"name": name, "role": "viewer"}, tokens[user])
        equal(status, 201, made)
        tokens[name] = made["token"]
    mine = {name: f"token-of-{name}" for name in ROLES}
    return [*(Asker(role, tokens[role], role, own=mine[role]) for role in ROLES), Asker("owner", tokens["owner"], "viewer", own="thing"),
            Asker("less", tokens["less"], "viewer", limited=True), Asker("one", None, "admin", vm="thing", limited=True),
            Asker("another", None, "admin", vm="else", limited=True),
            Asker("its", tokens["its"], "viewer", limited=True, own="thing"), Asker("nobody", None, None),
            Asker("liar", tokens["admin"][:-4] + "0000", None)]


def things(d, owner):
    """One of each kind that requests can be about, made anew where the last request took it away."""
    vm = {"memory": "32M", "kernel": ARGS().guest, "nets": [], "engine": "soft"}
    if d.call("GET", "/v1/vms/thing")[0] == 404:
        d.ok("PATCH", "/v1/users/owner", {"role": "operator"})
        status, job = d.ask("POST", "/v1/vms", {"name": "thing", **vm}, owner)
        equal(status, 202, job)
        d.job(job)
        d.ok("PATCH", "/v1/users/owner", {"role": "viewer"})
    for kind, fields in (("vms", {"name": "else", **vm}), ("disks", {"name": "thing", "size": "1M"}), ("users", {"name": "thing"}),
                         ("images", {"name": "thing", "source": os.path.join(d.folder, "small.img")})):
        if d.call("GET", f"/v1/{kind}/{fields['name']}")[0] == 404:
            made = d.ok("POST", f"/v1/{kind}", fields)
            if "stage" in made or made.get("kind", "").endswith("create"):
                equal(d.job(made)["state"], "done", f"{kind}: {made}")
    for role in ROLES:
        if d.call("GET", f"/v1/tokens/token-of-{role}")[0] == 404 and d.call("GET", f"/v1/users/{role}")[0] == 200:
            d.ok("POST", "/v1/tokens", {"name": f"token-of-{role}", "user": role})


@case
def access(folder):
    """Every request of the document by everybody: refused exactly where the rules say so, and answered as the document says."""
    with open(os.path.join(folder, "small.img"), "wb") as file:
        file.truncate(1 << 20)
    with Remote(folder) as d:
        judge = Judge(d.ok("GET", "/v1/openapi.json"))
        who = askers(d)
        owner = who[3].token
        job = next(job["id"] for job in d.ok("GET", "/v1/jobs")["items"] if job["kind"] == "image.create")
        tried, let_in = set(), 0
        streams_too = [(f"/v1/vms/{{id}}/{name}", "get") for name in ("console", "vnc")]
        for path, method in [*((path, method) for path, item in judge.document["paths"].items() for method in item), *streams_too]:
            about = "" if (path, method) in streams_too else judge.operation(path, method)["description"]
            kind = path.split("/")[2] if path.startswith("/v1") else path
            needed = "operator" if not about else about.removeprefix("Needs the role ").removesuffix(".")
            for asker in who:
                things(d, owner)
                asker.renew(d, who[ROLES.index("admin")].token)
                which = {"jobs": job, "hosts": socket.gethostname(), "tokens": "token-of-viewer"}.get(kind, "thing") if "{id}" in path else None
                status, answer = d.ask(method.upper(), path.replace("{id}", which or ""), {} if method != "get" else None, asker.token,
                                       socket=not about)
                if method == "delete" and status == 202:
                    d.job(answer)
                if about:
                    judge.answer(path, method, status, answer)
                open_to_all = about == "For everybody."
                verdict = None if open_to_all else asker.verdict(kind, method, needed, which)
                refused = status if status in (401, 403) or (status == 404 and which) else None
                equal(refused, verdict, f"{method} {path} by {asker.name}: {status} {answer}")
                tried.add((path, method))
                let_in += verdict is None
        count = sum(len(item) for item in judge.document["paths"].values()) + len(streams_too)
        check(len(tried) == count > 50 and let_in > 150, f"{len(tried)} requests of {count} were tried, {let_in} let in")


def ARGS():
    return rig.ARGS


@case
def secrets(folder):
    """Passwords and tokens are in no log, no answer but the one that gives a token, no process's words, and not in the store."""
    password, wrong, short = "correct-horse-battery", "wrong-staple-guess-1", "Sh0rt!x"
    with Remote(folder) as d:
        said = []

        def ask(*words, **more):
            answer = d.ask(*words, **more)
            said.append(json.dumps(answer, default=repr))
            return answer
        admin = d.login("admin") if d.ok("POST", "/v1/users", {"name": "admin", "role": "admin", "password": PASSWORD}) else ""
        ask("POST", "/v1/users", {"name": "ann", "role": "operator", "password": password}, admin)
        ask("PATCH", "/v1/users/ann", {"password": password + "-2"}, admin)
        ask("POST", "/v1/users", {"name": "bob", "password": short}, admin)  # too short: the error tells the field alone
        ask("POST", "/v1/users", {"name": "bob", "password": [password]}, admin)
        ask("POST", "/v1/tokens", {"user": "ann", "password": wrong})
        token = d.login("ann", password + "-2")
        ask("GET", "/v1/users/ann", None, admin)
        for path in ("/v1/users", "/v1/tokens", "/v1/audit", "/v1/events", "/v1/jobs"):
            ask("GET", path, None, admin)
        ask("GET", "/v1/vms", None, token[:-1] + "x")
        ask("GET", "/v1/nothing?token=" + "y" * 10, None, token)
        subprocess.run([os.path.join(ARGS().build, "src/cli/bedplate"), "user", "create", "eve", "--password"], env=d.env, check=True,
                       input=password.encode())
        check("ann" in "".join(said), "the answers")
        words = [password, wrong, short, PASSWORD, token.split("_")[2], admin.split("_")[2]]
        for pid in [str(d.process.pid), *map(str, d.processes())]:
            for name in ("cmdline", "environ"):
                with open(f"/proc/{pid}/{name}", "rb") as file:
                    said.append(file.read().decode(errors="replace"))
    said.append(d.process.stderr.read().decode())
    for top, _, names in os.walk(os.path.join(folder, "s")):
        for name in names:
            with open(os.path.join(top, name), "rb") as file:
                said.append(file.read().decode(errors="replace"))
    check(any("argon2id" in text for text in said), "the store was looked through")
    for word in words:
        check(not any(word in text for text in said), f"{word} is somewhere")


@case
def tokens(folder):
    """Logins, limits, ends; owners; certificates; users that go."""
    with Remote(folder) as d:
        d.ok("POST", "/v1/users", {"name": "ann", "role": "operator", "password": PASSWORD})
        d.ok("POST", "/v1/users", {"name": "vic", "role": "viewer", "password": PASSWORD, "certificate": "client"})
        user = d.ok("GET", "/v1/users/ann")
        check("password" not in json.dumps(user), f"a user shows {user}")
        with open(os.path.join(folder, "s/bedplate/store"), "rb") as store:
            data = store.read()
        with open(os.path.join(folder, "s/bedplate/store-wal"), "rb") as store:
            data += store.read()
        check(PASSWORD.encode() not in data and b"$argon2id$" in data, "the store has the password itself")
        ann = d.login("ann")
        check(ann.rsplit("_", 1)[1].encode() not in data, "the store has the token itself")

        words = [os.path.join(ARGS().build, "src/cli/bedplate"), "user", "create", "bob", "--password"]
        subprocess.run(words, input=PASSWORD + "\n", text=True, env=d.env, check=True, timeout=LIMIT)
        d.login("bob")
        check("takes no value" in d.cli("user", "create", "eve", "--password=secret", status=2), "a password in the process list")

        # What may be made of a token, and what may not.
        status, made = d.ask("POST", "/v1/tokens", {"name": "less", "role": "viewer"}, ann)
        equal(status, 201, str(made))
        less = made["token"]
        equal(d.ask("GET", "/v1/vms", None, less)[0], 200)
        equal(d.ask("POST", "/v1/vms", {"name": "x"}, less)[0], 403)
        equal(d.ask("POST", "/v1/tokens", {"name": "more"}, less)[0], 403)
        equal(d.ask("POST", "/v1/tokens", {"name": "hers", "user": "vic"}, ann)[0], 403)
        d.refused("POST", "/v1/tokens", 422, "there is no user", {"name": "mine"}, field="user")
        check("token" not in d.ok("GET", "/v1/tokens/less"), "a token is shown again")
        short = d.ok("POST", "/v1/tokens", {"name": "short", "user": "vic", "expires": time.time() + 3600})["token"]
        equal(d.ask("GET", "/v1/vms", None, short)[0], 200)
        seen = [t["name"] for t in d.ask("GET", "/v1/tokens", None, ann)[1]["items"]]
        check("less" in seen and "short" not in seen, f"ann sees the tokens {seen}")
        equal(d.ask("GET", "/v1/tokens/short", None, ann)[0], 404)
        equal(d.ask("DELETE", "/v1/tokens/short", None, ann)[0], 404)

        # One VM only.
        fields = {"memory": "32M", "kernel": ARGS().guest, "nets": [], "engine": "soft"}
        for name in ("a", "b"):
            status, job = d.ask("POST", "/v1/vms", {"name": name, **fields}, ann)
            equal(status, 202, str(job))
            d.job(job)
        one = d.ask("POST", "/v1/tokens", {"name": "one", "vm": "a"}, ann)[1]["token"]
        equal([vm["name"] for vm in d.ask("GET", "/v1/vms", None, one)[1]["items"]], ["a"])
        equal(d.ask("GET", "/v1/vms/b", None, one)[0], 404)
        equal(d.ask("POST", "/v1/vms/b/start", {}, one)[0], 404)
        equal(d.ask("POST", "/v1/vms", {"name": "c", **fields}, one)[0], 403)
        equal(d.ask("GET", "/v1/events", None, one)[0], 403)
        status, job = d.ask("POST", "/v1/vms/a/start", {}, one)
        equal(status, 202, str(job))
        d.job(job)
        equal(d.ask("GET", "/v1/jobs/" + job["id"], None, one)[0], 200)

        # An owner who became a viewer still rules over what is his.
        d.ok("PATCH", "/v1/users/ann", {"role": "viewer"})
        equal(d.ask("POST", "/v1/vms", {"name": "c", **fields}, ann)[0], 403)
        status, job = d.ask("POST", "/v1/vms/a/kill", {}, ann)
        equal(status, 202, str(job))
        d.job(job)
        vic = d.login("vic")
        equal(d.ask("POST", "/v1/vms/a/start", {}, vic)[0], 403)

        # Certificates: the user's own; another CA's is no certificate.
        equal(d.ask("GET", "/v1/vms", None, certificate="client")[0], 200)
        equal(d.ask("POST", "/v1/vms/a/start", {}, certificate="client")[0], 403)
        equal(d.ask("GET", "/v1/vms", None, certificate="stranger")[0], 401)
        d.refused("POST", "/v1/users", 409, "has it", {"name": "eve", "certificate": "client"}, field="certificate")

        # The client, from elsewhere.
        d.env.update(BEDPLATE_URL=f"https://127.0.0.1:{d.port}", BEDPLATE_TOKEN=ann)
        check("no" in d.cli("list", status=4), "a certificate of nobody known was believed")
        d.env.update(BEDPLATE_CA=os.path.join(folder, "ca.pem"))
        check("running" in d.cli("list") or "stopped" in d.cli("list"), "the list")
        check("viewer" in d.cli("token"), "the tokens")
        check("needs the role" in d.cli("create", "x", status=1), "a viewer created a VM")
        check("https://" in d.cli("--url", "http://127.0.0.1", "list", status=2), "in the clear")
        for name in ("URL", "TOKEN", "CA"):
            del d.env["BEDPLATE_" + name]

        # Ends: time, deletion, the user's. One that is over goes when the next is made.
        ending = d.ok("POST", "/v1/tokens", {"name": "ending", "user": "vic", "expires": time.time() + 4})["token"]
        status, answer = until("a token has no end", lambda: (said := d.ask("GET", "/v1/vms", None, ending))[0] != 200 and said)
        equal((status, answer["error"]["code"]), (401, "expired"))
        equal(d.call("DELETE", "/v1/tokens/less")[0], 204)
        equal(d.ask("GET", "/v1/vms", None, less)[0], 401)
        d.ok("PATCH", "/v1/users/vic", {"disabled": True})
        equal(d.ask("GET", "/v1/vms", None, vic)[0], 403)
        equal(d.ask("GET", "/v1/vms", None, certificate="client")[0], 403)
        equal(d.ask("POST", "/v1/tokens", {"user": "vic", "password": PASSWORD})[0], 401)
        equal(d.call("DELETE", "/v1/users/ann")[0], 204)
        d.ok("POST", "/v1/users", {"name": "ann", "role": "admin", "password": PASSWORD})
        equal(d.ask("GET", "/v1/vms", None, ann)[0], 401, )
        equal(d.ask("GET", "/v1/vms", None, "bedplate_nonsense")[0], 401)
        equal(d.ask("GET", "/v1/vms", None, one[:-1] + ("0" if one[-1] != "0" else "1"))[0], 401)

        # Guessing becomes slow, for names that nobody has, too.
        for name in ("ann", "nobody"):
            statuses = [d.ask("POST", "/v1/tokens", {"user": name, "password": "wrong"})[0] for _ in range(6)]
            check(statuses[0] == 401 and set(statuses) == {401, 429}, f"{name}: {statuses}")
        # Also when the guesses come all at once.
        d.ok("POST", "/v1/users", {"name": "many", "password": PASSWORD})
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            statuses = list(pool.map(lambda _: d.ask("POST", "/v1/tokens", {"user": "many", "password": "wrong"})[0], range(12)))
        equal(set(statuses), {401, 429}, str(statuses))


@case
def audit(folder):
    """Every change and every refusal is there, in a chain; what was meddled with shows."""
    with Remote(folder) as d:
        d.ok("POST", "/v1/users", {"name": "vic", "role": "viewer", "password": PASSWORD})
        vic = d.login("vic")
        d.ask("POST", "/v1/vms", {"name": "x"}, vic)
        d.ask("GET", "/v1/vms")
        d.ok("GET", "/v1/vms")
        records = d.ok("GET", "/v1/audit")["items"]
        told = [(r["user"], r["via"], r["method"], r["path"], r["status"]) for r in records]
        root = told[0][0]
        equal(told, [(root, "unix", "POST", "/v1/users", 201), ("vic", "tls 127.0.0.1", "POST", "/v1/tokens", 201),
                     ("vic", "tls 127.0.0.1", "POST", "/v1/vms", 403), ("", "tls 127.0.0.1", "GET", "/v1/vms", 401)])
        before = ""
        for record in records:
            parts = [record[k] for k in ("id", "user", "via", "method", "path")] + [round(record["time"] * 1000), record["status"]]
            text = json.dumps(parts, separators=(",", ":"))
            before = hashlib.sha256(f"{before}\n{text}".encode()).hexdigest()
            equal(record["hash"], before, str(record))
        equal(d.ask("GET", "/v1/audit", None, vic)[0], 403)
        check("5 records" in d.cli("audit", "verify"), "verify does not tell how many records there are")

        # Many pages, and another daemon.
        for _ in range(300):
            d.call("DELETE", "/v1/users/absent")
        d.kill()
        path = os.path.join(folder, "s/bedplate/audit.log")
        with open(path, "ab") as file:
            file.write(b'{"id": "306", "half a reco')
        d.start()
        check("305 records" in d.cli("audit", "verify"), "records after a restart")
        equal(len(d.ok("GET", "/v1/audit?after=300&limit=3")["items"]), 3)
        equal(d.ok("GET", "/v1/audit?after=300&limit=1")["items"][0]["id"], "301")
        d.kill()
        with open(path, "rb") as file:
            lines = file.read().splitlines(keepends=True)
        for name, wrong in (("changed", [lines[0], lines[1].replace(b"vic", b"eve"), *lines[2:]]), ("missing", lines[:7] + lines[8:])):
            with open(path, "wb") as file:
                file.writelines(wrong)
            d.start()
            check("record" in d.cli("audit", "verify", status=1), name)
            d.kill()
        with open(path, "wb") as file:
            file.writelines(lines[:5] + [b"garbage\n"] + lines[5:])
        program = os.path.join(ARGS().build, "src/daemon/bedplated")
        result = subprocess.run([program, "--user"], env=d.env, capture_output=True, text=True, timeout=LIMIT, check=False)
        check(result.returncode == 1 and "damaged behind record 5" in result.stderr, result.stderr)
        with open(path, "wb") as file:
            file.writelines(lines)
        d.start()


# Debian's client: python3-websockets. Prints what came back, or the status of the refusal.
CLIENT = """
import asyncio, json, ssl, sys, websockets

async def main():
    url, path, ca, protocols, script = json.loads(sys.argv[1])
    options = {"subprotocols": protocols or None, "open_timeout": 60}
    if ca:
        options["ssl"] = ssl.create_default_context(cafile=ca)
    connect = websockets.unix_connect(path, url, **options) if path else websockets.connect(url, **options)
    try:
        async with connect as ws:
            print("protocol", ws.subprotocol, flush=True)
            heard = b""
            for kind, text in script:
                if kind == "send":
                    await ws.send(text.encode())
                elif kind == "pieces":
                    await ws.send(c.encode() for c in text)
                elif kind == "ping":
                    await (await ws.ping(b"x" * 125))
                elif kind == "hear":
                    while text.encode() not in heard:
                        more = await asyncio.wait_for(ws.recv(), 60)
                        heard += more if isinstance(more, bytes) else more.encode()
                    print("heard", text, flush=True)
                elif kind == "closed":
                    await asyncio.wait_for(ws.wait_closed(), 60)
                    print("closed", ws.close_code, flush=True)
    except websockets.exceptions.InvalidStatusCode as e:
        print("refused", e.status_code, flush=True)

asyncio.run(main())
"""


class Viewer:
    def __init__(self, path, script, unix=None, port=None, ca=None, protocols=()):
        url = f"wss://127.0.0.1:{port}{path}" if port else "ws://bedplate" + path
        self.process = subprocess.Popen(["/usr/bin/python3", "-c", CLIENT, json.dumps([url, unix, ca, list(protocols), script])],
                                        stdout=subprocess.PIPE, text=True)

    def says(self):
        out, _ = self.process.communicate(timeout=LIMIT)
        equal(self.process.returncode, 0, out)
        return out.splitlines()


@case
def streams(folder):
    """WebSockets by a client of somebody else's: consoles both ways, events, refusals, nonsense."""
    with Remote(folder) as d:
        d.ok("POST", "/v1/users", {"name": "ann", "role": "operator", "password": PASSWORD})
        d.ok("POST", "/v1/users", {"name": "vic", "role": "viewer", "password": PASSWORD})
        ann, vic = d.login("ann"), d.login("vic")
        ca = os.path.join(folder, "ca.pem")
        d.create("a")
        equal(Viewer("/v1/vms/a/console", [], unix=d.socket).says(), ["refused 409"])
        events = Viewer("/v1/events", [["hear", "vm.started"]], port=d.port, ca=ca, protocols=["bedplate", vic])
        equal(events.process.stdout.readline(), "protocol bedplate\n")
        d.done("a", "start")
        equal(events.says(), ["heard vm.started"])
        # The guest answers "i" with how many it has had: typed whole, in pieces, and between pings.
        script = [["ping", ""], ["send", "i"], ["hear", "00000001"], ["pieces", "ii"], ["ping", ""], ["hear", "00000003"]]
        equal(Viewer("/v1/vms/a/console", script, unix=d.socket).says(), ["protocol None", "heard 00000001", "heard 00000003"])
        looks = Viewer("/v1/vms/a/console", [["hear", "00000004"]], unix=d.socket)
        equal(looks.process.stdout.readline(), "protocol None\n")
        script = [["hear", "00000003"], ["send", "i"], ["hear", "00000004"]]  # what was said before is there
        equal(Viewer("/v1/vms/a/console", script, port=d.port, ca=ca, protocols=["bedplate", ann]).says(),
              ["protocol bedplate", "heard 00000003", "heard 00000004"])
        equal(looks.says(), ["heard 00000004"])
        equal(Viewer("/v1/vms/a/console", [], port=d.port, ca=ca, protocols=["bedplate", vic]).says(), ["refused 403"])
        equal(Viewer("/v1/vms/a/console", [], port=d.port, ca=ca).says(), ["refused 401"])
        equal(Viewer("/v1/vms/a/nothing", [], unix=d.socket).says(), ["refused 404"])
        equal(Viewer("/v1/vms/a/vnc", [], unix=d.socket).says(), ["refused 409"])
        # The VM ends: so does its console, in order.
        viewer = Viewer("/v1/vms/a/console", [["closed", ""]], unix=d.socket)
        equal(viewer.process.stdout.readline(), "protocol None\n")
        d.done("a", "kill")
        equal(viewer.says(), ["closed 1000"])

        def raw(request, *more):
            s = socket.socket(socket.AF_UNIX)
            s.settimeout(LIMIT)
            s.connect(d.socket)
            s.sendall(request)
            head = s.recv(1000)
            for data in more:
                s.sendall(data)
            rest = b""
            while more and (part := s.recv(1000)):
                rest += part
            s.close()
            return head, rest

        ask = b"GET /v1/events HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        key = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        check(b" 426 " in raw(ask + key + b"\r\n")[0], "no version")
        ask += b"Sec-WebSocket-Version: 13\r\n"
        check(b" 400 " in raw(ask + b"\r\n")[0], "no key")
        check(b" 403 " in raw(ask + key + b"Origin: https://evil.example\r\n\r\n")[0], "another's page")
        head, rest = raw(ask + key + b"\r\n", b"\x81\x05hello")  # not masked
        check(b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head, head)
        equal(rest[-4:], b"\x88\x02\x03\xea", "the close frame says 1002")
        for _ in range(20):  # gone in the middle of it
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(d.socket)
                s.sendall(ask + key + b"\r\n")
        equal(d.call("GET", "/v1/health")[0], 200)
        viewer = Viewer("/v1/events", [["closed", ""]], unix=d.socket)
        equal(viewer.process.stdout.readline(), "protocol None\n")
        d.process.terminate()
        equal(d.process.wait(LIMIT), 0, "a daemon that ends under its viewers")
        viewer.says()


@case
def clients(folder):
    """Client certificates: only one that is good, now, and not revoked stands for its user."""
    with Remote(folder) as d:
        odd_certificates(folder)
        names = ["over", "future", "revoked", "self", "below", "client"]
        for name in names:
            d.ok("POST", "/v1/users", {"name": name, "certificate": name})

        def good():
            return [name for name in names if d.ask("GET", "/v1/vms", certificate=name)[0] == 200]
        equal(good(), ["revoked", "client"], "without a list of revoked ones")
        crl = os.path.join(folder, "list.pem")
        os.link(os.path.join(folder, "crl.pem"), crl)
        d.process.terminate()
        d.process.communicate()
        d.options = (*d.options, "--tls-crl", crl)
        d.start()
        equal(good(), ["client"])
        # A list that is out of date says nothing of who was revoked since; one that is none leaves the former in use.
        for name, left in (("old.crl.pem", []), ("ca.pem", []), ("crl.pem", ["client"])):
            os.unlink(crl)
            os.link(os.path.join(folder, name), crl)
            d.process.send_signal(signal.SIGHUP)
            if name == "ca.pem":
                time.sleep(0.5)  # in which it would have taken what it must not
                equal(good(), left, f"with {name}")
            until(lambda: f"with {name}: {good()}, want {left}", lambda: good() == left)
        equal(d.ask("GET", "/v1/health", certificate="over")[0], 200, "what needs nobody")


@case
def tls(folder):
    """Old versions, weak ciphers and other nonsense; bad options."""
    with Remote(folder) as d:
        def s_client(*options, given=b"", **more):
            return subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{d.port}", "-CAfile",
                                   os.path.join(folder, "ca.pem"), *options], input=given, capture_output=True, check=False, timeout=LIMIT, **more)

        for version in ("-tls1_2", "-tls1_3"):
            result = s_client(version)
            check(b"Verify return code: 0 (ok)" in result.stdout, f"{version}: {result.stdout} {result.stderr}")
        for options in (["-tls1", "-cipher", "ALL:@SECLEVEL=0"], ["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"],
                        *(["-tls1_2", "-cipher", f"{cipher}:@SECLEVEL=0"] for cipher in (
                            "NULL", "aNULL", "eNULL", "ADH", "AECDH", "PSK", "SRP", "CAMELLIA", "ARIA", "SEED", "kRSA")),
                        ["-tls1_2", "-sigalgs", "ECDSA+SHA1"], ["-tls1_2", "-curves", "secp224r1"]):
            result = s_client(*options)
            check(b"Cipher is (NONE)" in result.stdout or b"Cipher    : 0000" in result.stdout or result.returncode != 0,
                  f"{options}: {result.stdout}")
        # Names of servers that it has not.
        for name in ("a" * 255, "xn--nonsense", "..", "127.0.0.1", "evil.example"):
            result = s_client("-servername", name, given=b"GET /v1/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", )
            check(b"CONNECTED" in result.stdout, f"{name}: {result.stdout}")
            equal(d.ask("GET", "/v1/health")[0], 200, name)
        # A handshake again in the middle is not had, and costs it nothing; nor does half of one.
        result = s_client("-tls1_2", "-legacy_renegotiation", given=b"R\n" * 3)
        check(b"RENEGOTIATING" in result.stdout + result.stderr and result.stdout.count(b"Verify return code") <= 1, result.stdout)
        hello = bytes.fromhex("160301")
        halves = [socket.create_connection(("127.0.0.1", d.port), timeout=LIMIT) for _ in range(50)]
        for i, half in enumerate(halves):
            half.sendall(hello + bytes([i]) * i)
        equal(d.ask("GET", "/v1/health")[0], 200)

        def ticks():
            with open(f"/proc/{d.process.pid}/stat", encoding="ascii") as file:
                return sum(map(int, file.read().rsplit(")", 1)[1].split()[11:13]))

        # To take fifty connections costs something; to have them nothing.
        def idle():
            before = ticks()
            time.sleep(0.5)
            return ticks() - before < 0.1 * os.sysconf("SC_CLK_TCK")

        until("it spins", idle)
        for half in halves:
            half.close()
        with socket.create_connection(("127.0.0.1", d.port), timeout=LIMIT) as plain:
            plain.sendall(b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                check(b"200" not in plain.recv(100), "it answers in the clear")
        equal(d.ask("GET", "/v1/health")[0], 200)
        program = os.path.join(ARGS().build, "src/daemon/bedplated")

        def sentence(words, *options):
            own = os.path.join(folder, "own")
            result = subprocess.run([program, "--user", *options], capture_output=True, text=True, timeout=LIMIT, check=False,
                                    env=dict(os.environ, XDG_STATE_HOME=own, XDG_RUNTIME_DIR=own))
            check(result.returncode == 1 and words in result.stderr, f"{options}: {result.returncode} {result.stderr}")

        file = d.options
        sentence("needs --tls-cert", "--listen", f"127.0.0.1:{free_port()}")
        sentence("cannot listen", *file)
        sentence("ADDRESS:PORT", "--listen", "nonsense", *file[2:])
        sentence("does not start", "--listen", f"127.0.0.1:{free_port()}", "--tls-cert", file[3], "--tls-key",
                 os.path.join(folder, "client.key"))
        sentence("--tls-crl is for", "--listen", f"127.0.0.1:{free_port()}", *file[2:6], "--tls-crl", file[3])
        sentence("--tls-crl: there is no list", "--listen", f"127.0.0.1:{free_port()}", *file[2:8], "--tls-crl", file[3])
        sentence("--tls-ca: there is no certificate", "--listen", f"127.0.0.1:{free_port()}", *file[2:6], "--tls-ca", file[5])
        sentence("absent", "--listen", f"127.0.0.1:{free_port()}", "--tls-cert", "/absent", "--tls-key", file[5])


@case
def systemd(folder):
    """Started by a socket that systemd would hand over, telling that it is ready, reading a new certificate on SIGHUP."""
    with Remote(folder) as d:
        d.ok("POST", "/v1/users", {"name": "vic", "role": "viewer", "password": PASSWORD})
        vic, ca = d.login("vic"), os.path.join(folder, "ca.pem")
        d.kill()
        told, given = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), socket.socket(socket.AF_UNIX)
        told.settimeout(LIMIT)
        told.bind(os.path.join(folder, "notify"))
        os.unlink(d.socket)
        given.bind(d.socket)
        given.listen(10)
        first = http.client.HTTPConnection("x")  # it waits for the daemon that is not there yet
        first.sock = socket.socket(socket.AF_UNIX)
        first.sock.settimeout(LIMIT)
        first.sock.connect(d.socket)
        first.request("GET", "/v1/health")
        program = os.path.join(ARGS().build, "src/daemon/bedplated")
        d.process = subprocess.Popen(["sh", "-c", 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$@" 3<&0 <&-', "sh", program, "--user", *d.options],
                                     env=dict(d.env, NOTIFY_SOCKET=os.path.join(folder, "notify")), stdin=given.fileno(),
                                     stderr=subprocess.PIPE)
        equal(told.recv(100), b"READY=1")
        equal(first.getresponse().status, 200)
        d.create("a")

        def server():
            with socket.create_connection(("127.0.0.1", d.port), timeout=LIMIT) as plain:
                with ssl.create_default_context(cafile=ca).wrap_socket(plain, server_hostname="127.0.0.1") as tls_socket:
                    return tls_socket.getpeercert()["serialNumber"]

        old = server()
        viewer = Viewer("/v1/events", [["hear", "vm.started"]], port=d.port, ca=ca, protocols=["bedplate", vic])
        equal(viewer.process.stdout.readline(), "protocol bedplate\n")
        os.rename(os.path.join(folder, "server.pem"), os.path.join(folder, "good.pem"))
        os.link(os.path.join(folder, "client.pem"), os.path.join(folder, "server.pem"))  # of another key
        d.process.send_signal(signal.SIGHUP)
        time.sleep(0.2)
        equal(server(), old, "a certificate of another key")
        os.unlink(os.path.join(folder, "server.pem"))
        subprocess.run(["openssl", "x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out",
                        "server.pem", "-days", "2", "-extfile", "ext"], cwd=folder, check=True, capture_output=True)
        d.process.send_signal(signal.SIGHUP)
        until("the new certificate is not served", lambda: server() != old)
        d.done("a", "start")
        equal(viewer.says(), ["heard vm.started"], "who was connected before")
        d.process.terminate()
        equal(d.process.wait(LIMIT), 0)
        check(os.path.exists(d.socket), "systemd's socket was removed")


if __name__ == "__main__":
    rig.main()
