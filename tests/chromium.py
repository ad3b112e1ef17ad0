"""Headless Chromium, spoken to over a pipe (the DevTools protocol): what a page draws, says, and asks the network for."""

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps", "--disable-dev-shm-usage",
    "--no-default-browser-check", "--disable-extensions", "--mute-audio", "--hide-scrollbars",
)  # fmt: skip
# It reads its orders on descriptor 3 and answers on 4, whatever numbers the pipes have here.
START = """
import fcntl, os, sys
pipes = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
for at, pipe in enumerate(pipes):
    os.dup2(pipe, 3 + at)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Chromium:
    """One page of one browser with a profile of its own. Use as a context manager.

    `said` holds console errors and uncaught exceptions, `asked` every address that the page asked for.
    """

    def __init__(self, profile: Path, *, width: int = 1280, height: int = 900, dark: bool = False, webgl: bool = True):
        assert PROGRAM is not None
        self.said: list[str] = []
        self.asked: list[str] = []
        self.number = 0
        self.left = b""
        to_it, self.to_it = os.pipe()
        self.from_it, from_it = os.pipe()
        flags = [*QUIET, *([] if webgl else ["--disable-3d-apis"])]
        words = [PROGRAM, *flags, "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, str(to_it), str(from_it), *words],
            pass_fds=(to_it, from_it), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_it)
        os.close(from_it)
        targets = self.order("Target.getTargets", session=False)["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self.session = self.order("Target.attachToTarget", session=False, targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.order(f"{domain}.enable")
        self.order("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.dark(dark)

    def __enter__(self) -> "Chromium":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.to_it)
        os.close(self.from_it)

    def order(self, method: str, *, session: bool = True, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; what happens meanwhile is noted."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params, **({"sessionId": self.session} if session else {})}
        os.write(self.to_it, json.dumps(message).encode() + b"\0")
        while True:
            found = self.next()
            if found.get("id") == self.number:
                assert "error" not in found, found["error"]
                return found["result"]

    def next(self) -> dict[str, Any]:
        while b"\0" not in self.left:
            more = os.read(self.from_it, 1 << 20)
            assert more, "the browser is gone"
            self.left += more
        first, _, self.left = self.left.partition(b"\0")
        found = json.loads(first)
        params = found.get("params", {})
        if found.get("method") == "Network.requestWillBeSent":
            self.asked.append(params["request"]["url"])
        elif found.get("method") == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.said.append(details.get("exception", {}).get("description") or details["text"])
        elif found.get("method") == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.said.append(" ".join(str(part.get("value", part.get("description"))) for part in params["args"]))
        elif found.get("method") == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.said.append(params["entry"]["text"])
        return found

    def dark(self, dark: bool) -> None:
        """Prefer dark colours, or light ones."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.order("Emulation.setEmulatedMedia", features=features)

    def open(self, page: Path, *, until: str = "document.readyState === 'complete'", timeout: float = 300) -> None:
        """Show a file and wait until an expression is true in it."""
        self.order("Page.navigate", url=page.resolve().as_uri())
        self.wait(until, timeout=timeout)

    def wait(self, until: str, *, timeout: float = 300) -> None:
        """Wait until an expression is true in the page."""
        late = time.monotonic() + timeout
        while not self.ask(f"Boolean({until})"):
            assert time.monotonic() < late, (until, self.said)
            time.sleep(0.05)

    def ask(self, expression: str) -> Any:
        """The value of an expression in the page."""
        found = self.order("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def picture(self, file: Path, *, whole: bool = True) -> Path:
        """A screenshot, of the whole page or of what is seen at once."""
        found = self.order("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(found["data"]))
        return file
