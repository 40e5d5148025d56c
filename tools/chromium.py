"""A headless Chromium driven over its own pipe: no driver program, no port, no further library.

For the tests of the page and for `screenshots.py`. Speaks the DevTools protocol: JSON messages, each ended by a zero
byte, on file descriptors 3 and 4 of the browser.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
TIMEOUT_S = 60.0


def find_chromium() -> str | None:
    """Return the path of an installed Chromium or Chrome, or None."""
    return next((found for name in NAMES if (found := shutil.which(name)) is not None), None)


class PageError(RuntimeError):
    """The page threw, or something expected never came."""


class Chromium:
    """One browser with one page; a context manager.

    Args:
        width: Of the window, CSS pixels.
        height: Of the window, CSS pixels.

    Attributes:
        requests: Every address the page has asked for.
        complaints: What the page's console said at the levels warning and error, and what it threw.
    """

    def __init__(self, *, width: int = 1280, height: int = 900) -> None:
        program = find_chromium()
        if program is None:
            raise PageError(f"no Chromium found; looked for {', '.join(NAMES)}.")
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._profile = tempfile.mkdtemp(prefix="medtail-chromium-")
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        words = [
            program, "--headless=new", "--remote-debugging-pipe", "--disable-gpu", "--no-first-run", "--mute-audio",
            "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
            "--disable-dev-shm-usage", f"--user-data-dir={self._profile}", f"--window-size={width},{height}",
        ]  # fmt: skip
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            words.append("--no-sandbox")  # the sandbox refuses to start as root
        # the browser finds its pipe at 3 and 4: moved there by a shell, for they may be taken here
        script = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self._process = subprocess.Popen(
            ["bash", "-c", script, "bash", *words, "about:blank"],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._in, self._out = ours_in, ours_out
        self._rest = b""
        self._number = 0
        self._session: str | None = None
        try:
            targets = self._call("Target.getTargets")["targetInfos"]
            page = next(target for target in targets if target["type"] == "page")
            attached = self._call("Target.attachToTarget", targetId=page["targetId"], flatten=True)
            self._session = attached["sessionId"]
            for domain in ("Page", "Runtime", "Network", "Log"):
                self.call(f"{domain}.enable")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Chromium:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the browser and remove its profile."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for end in (self._in, self._out):
            os.close(end)
        for _ in range(20):  # its children end a little later and still write
            shutil.rmtree(self._profile, ignore_errors=True)
            if not Path(self._profile).exists():
                break
            time.sleep(0.1)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol on the page."""
        return self._call(method, **parameters)

    def open(self, address: str) -> None:
        """Go to an address and wait until its scripts have run."""
        self.call("Page.navigate", url=address)
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression; promises are awaited.

        Raises:
            PageError: It threw.
        """
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise PageError(str(found["exceptionDetails"].get("exception", {}).get("description", found)))
        return found["result"].get("value")

    def wait_for(self, expression: str, *, timeout_s: float = TIMEOUT_S) -> None:
        """Wait until an expression is true.

        Raises:
            PageError: It never was.
        """
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            if self.evaluate(expression):
                return
            time.sleep(0.05)
        raise PageError(f"never true: {expression}. The page said: {self.complaints}")

    def drop(self, selector: str, files: Sequence[Path]) -> None:
        """Drop files on an element, as a hand with a mouse would."""
        x, y = self.evaluate(
            f"(() => {{ const box = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
            " return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        data = {"items": [], "files": [str(Path(file).resolve()) for file in files], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def press(self, key: str, *, code: str | None = None, text: str | None = None) -> None:
        """Press and release a key, such as `Tab`, `Enter` or `Escape`."""
        numbers = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32}
        words: dict[str, Any] = {"key": key, "code": code or key, "windowsVirtualKeyCode": numbers.get(key, 0)}
        written = text if text is not None else {"Enter": "\r", " ": " "}.get(key)
        if written is not None:
            words["text"] = written
        self.call("Input.dispatchKeyEvent", type="keyDown", **words)
        self.call("Input.dispatchKeyEvent", type="keyUp", **words)

    def drag(self, start: tuple[float, float], stop: tuple[float, float]) -> None:
        """Press the mouse at one place of the window, move to another, and release it."""
        (x, y), (to_x, to_y) = start, stop
        button = {"button": "left", "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, **button)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=(x + to_x) / 2, y=(y + to_y) / 2, **button)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=to_x, y=to_y, **button)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", x=to_x, y=to_y, **button)

    def look(
        self, *, width: int, height: int = 900, scheme: str = "light", media: str = "screen", scale: float = 1.0
    ) -> None:
        """Set the window's size in CSS pixels, `light` or `dark`, and `screen` or `print`."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """Write a PNG of the page, below the window's edge too if `whole`."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        Path(path).write_bytes(base64.b64decode(found["data"]))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        content = json.dumps(message).encode() + b"\0"
        while content:
            content = content[os.write(self._out, content) :]
        until = time.monotonic() + TIMEOUT_S
        while True:
            reply = self._receive(until, method)
            if reply.get("id") == self._number:
                if "error" in reply:
                    raise PageError(f"{method}: {reply['error']['message']}")
                return dict(reply["result"])
            self._note(reply)

    def _receive(self, until: float, method: str) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                raise PageError(f"{method}: the browser did not answer within {TIMEOUT_S:g} s.")
            chunk = os.read(self._in, 1 << 16)
            if not chunk:
                raise PageError(f"{method}: the browser has ended.")
            self._rest += chunk
        text, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(text)
        return found

    def _note(self, event: dict[str, Any]) -> None:
        name, told = event.get("method"), event.get("params", {})
        if name == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif name == "Runtime.exceptionThrown":
            details = told["exceptionDetails"]
            self.complaints.append(str(details.get("exception", {}).get("description", details.get("text"))))
        elif name == "Log.entryAdded" and told["entry"]["level"] in ("warning", "error"):
            self.complaints.append(str(told["entry"]["text"]))
        elif name == "Runtime.consoleAPICalled" and told["type"] in ("warning", "error", "assert"):
            self.complaints.append(" ".join(str(word.get("value", word.get("description"))) for word in told["args"]))
