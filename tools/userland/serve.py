#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Serves a folder by HTTP on this host's loopback and ends with its parent:  serve.py FOLDER

Prints its port. The VMM replaces the parent by exec, so the server lives as long as the VM.
"""
import ctypes
import functools
import http.server
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # apt asks for many files

    def log_message(self, *_):
        pass


def main():
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        return
    os.setsid()  # keys of the terminal are the guest's
    handler = functools.partial(Handler, directory=sys.argv[1])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    print(server.server_port, flush=True)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(null, 0)
    server.serve_forever()


if __name__ == "__main__":
    main()
