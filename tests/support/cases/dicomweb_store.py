"""A DICOMweb service that takes objects by STOW-RS."""

from __future__ import annotations

import json
import re
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Web:
    """A DICOMweb service that takes objects; ``statuses`` are its first answers, 206 to take the first object only."""

    def __init__(self, *statuses: int, tls: ssl.SSLContext | None = None) -> None:
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        waiting = list(statuses)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(inner) -> None:
                body = inner.rfile.read(int(inner.headers["Content-Length"]))
                status = waiting.pop(0) if waiting else 200
                uids = re.findall(rb"2\.25\.\d+", body)
                self.headers.append(dict(inner.headers))
                stored = []
                if status in (200, 206) and inner.path == "/dicom-web/studies":
                    self.bodies.append(body)
                    first = [re.search(rb"2\.25\.\d+", body).group()]
                    taken = first if status == 206 else sorted(set(uids))
                    stored = [{"00081155": {"vr": "UI", "Value": [uid.decode()]}} for uid in taken]
                    status = 200
                content = json.dumps({"00081199": {"vr": "SQ", "Value": stored}}).encode()
                inner.send_response(status)
                inner.send_header("Content-Length", str(len(content)))
                inner.end_headers()
                inner.wfile.write(content)

            def log_message(inner, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{self.server.server_address[1]}" if tls is None else f"localhost:{self.server.server_address[1]}"
        if tls is not None:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.url = f"http{'' if tls is None else 's'}://{address}/dicom-web"
