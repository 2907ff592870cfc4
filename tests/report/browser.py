"""Headless Chromium, driven by the W3C WebDriver protocol with nothing but the standard library."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ARGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND", "--hide-scrollbars"),
)


class Browser:
    """One window."""

    def __init__(self, session: str) -> None:
        self.session = session

    def open(self, path: Path, fragment: str = "") -> None:
        self.send("url", {"url": "about:blank"})  # so that a new fragment loads the page anew
        self.send("url", {"url": path.resolve().as_uri() + fragment})
        end = time.monotonic() + 20
        # the driver now and then answers while the page is still loading
        while self.evaluate("document.readyState") != "complete" and time.monotonic() < end:
            time.sleep(0.02)

    def run(self, script: str, *args: Any) -> Any:
        return self.send("execute/sync", {"script": script, "args": list(args)})

    def evaluate(self, expression: str) -> Any:
        """Look at the page from outside, which works where its scripts are forbidden too."""
        return self.devtools("Runtime.evaluate", expression=expression)["result"]["value"]

    def devtools(self, command: str, **params: Any) -> Any:
        return self.send("goog/cdp/execute", {"cmd": command, "params": params})

    def size(self, width: int, height: int = 900) -> None:
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )

    def media(self, media: str = "screen", scheme: str = "light") -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.devtools("Emulation.setEmulatedMedia", media=media, features=features)

    def shot(self, path: Path, *, whole: bool = False) -> None:
        shot = self.devtools("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def keys(self, text: str) -> None:
        """Press keys, one after another, where the focus is."""
        moves = [{"type": kind, "value": key} for key in text for kind in ("keyDown", "keyUp")]
        self.send("actions", {"actions": [{"type": "key", "id": "keys", "actions": moves}]})

    def log(self, kind: str) -> list[dict[str, Any]]:
        """Entries since the last look; ``browser`` is the console, ``performance`` the network."""
        return self.send("se/log", {"type": kind})

    def send(self, command: str, body: Any) -> Any:
        return _post(f"{self.session}/{command}", body)


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with an empty profile; skips where none is installed."""
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium")
    if not driver or not chromium:
        pytest.skip("chromium and chromium-driver are not installed: the page is not tried out")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (profile / "driver.log").open("w") as log:
        process = subprocess.Popen([driver, f"--port={port}"], stdout=log, stderr=log)
        root = f"http://127.0.0.1:{port}/session"
        try:
            answer = _started(root, [*ARGS, f"--user-data-dir={profile / 'profile'}"], chromium)
            one = Browser(f"{root}/{answer['sessionId']}")
            try:
                yield one
            finally:
                urllib.request.urlopen(urllib.request.Request(one.session, method="DELETE")).close()
        finally:
            process.terminate()
            process.wait(timeout=20)


def _started(root: str, args: list[str], chromium: str) -> Any:
    options = {
        "goog:chromeOptions": {"args": args, "binary": chromium},
        "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
    }
    end = time.monotonic() + 20
    while True:
        try:
            return _post(root, {"capabilities": {"alwaysMatch": options}})
        except OSError as error:
            if getattr(error, "code", None) or time.monotonic() > end:
                raise
            time.sleep(0.1)


def _post(url: str, body: Any) -> Any:
    data = json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        error.add_note(error.read().decode(errors="replace")[:600])
        raise
