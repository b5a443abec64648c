"""Drives the host's own web page in Chromium as a person would: drop a file, press Run, look at the picture.

Tests use it to show that a workflow opens and runs by hand, and it takes the pictures of workflows for the README.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

    from .workflows import Json, Prompt

T = TypeVar("T")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
)  # fmt: skip
# The front end's settings of someone who has seen its tour, so that it opens on the canvas.
SEEN_THE_TOUR = {"Comfy.TutorialCompleted": True}
APP = "const app = window.comfyAPI?.app?.app;"


class BrowserError(RuntimeError):
    """The page did not do what was asked of it."""


def find_browser() -> tuple[str, str] | None:
    """Chromium and its driver, or None where either is missing."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


@dataclass(frozen=True)
class Shown:
    """A picture that a node shows on the canvas, in pixels of its file and of the screen (x, y, width, height)."""

    source: str
    width: int
    height: int
    box: tuple[float, float, float, float]


@contextlib.contextmanager
def opened(url: str, size: tuple[int, int] = (1600, 1000), timeout: float = 90.0) -> Iterator[FrontEnd]:
    """The host's page in a fresh browser profile; ready to take a workflow. Raises BrowserError if it is not."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    found = find_browser()
    if found is None:
        raise BrowserError(
            f"Install Chromium and chromedriver; looked for {', '.join(BROWSERS)} on the PATH."
        )
    with tempfile.TemporaryDirectory(prefix="steerdit-browser-", ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = found[0]
        for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        # The driver talks to the browser over the loopback interface; a proxy must not stand between.
        loopback = {"NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}
        kept = {name: os.environ.get(name) for name in loopback}
        os.environ.update(loopback)
        try:
            driver = webdriver.Chrome(options=options, service=Service(found[1]))
        finally:
            for name, value in kept.items():
                os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
        try:
            driver.set_script_timeout(timeout)
            driver.get(url)
            front_end = FrontEnd(driver)
            front_end.wait_for(front_end.is_ready, "the canvas", timeout)
            yield front_end
        finally:
            driver.quit()


class FrontEnd:
    """The page of a host. Node ids are those of the workflow file."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver

    def is_ready(self) -> bool:
        """Whether the page knows the host's nodes, shows a workflow and takes clicks."""
        return bool(
            self.run(
                "return !!app?.rootGraph && !!app.canvas"
                " && !!document.querySelector('[data-testid=topbar-workflow-tabs]')?.innerText.trim()"
                " && Object.keys(window.LiteGraph?.registered_node_types ?? {}).length > 50"
                " && !!document.querySelector('[data-testid=queue-button]')"
                " && !document.querySelector('.p-blockui-mask')"  # the curtain while a workflow loads
            )
        )

    def drop(self, name: str, content: str, nodes: int) -> None:
        """Drop a file on the canvas, and wait until that many nodes are there."""
        self.run(
            """
            const [name, content] = arguments, transfer = new DataTransfer();
            transfer.items.add(new File([content], name, {type: "application/json"}));
            const canvas = app.canvas.canvas, box = canvas.getBoundingClientRect();
            const place = {clientX: box.left + box.width / 2, clientY: box.top + box.height / 2};
            for (const kind of ["dragenter", "dragover", "drop"])
              canvas.dispatchEvent(new DragEvent(kind, {
                dataTransfer: transfer, bubbles: true, cancelable: true, ...place}));
            """,
            name,
            content,
        )
        tab = Path(name).stem
        self.wait_for(lambda: tab in self.tabs() and len(self.nodes()) == nodes, f"{nodes} nodes of {name}")

    def tabs(self) -> str:
        """The titles of the open workflows."""
        return str(
            self.run("return document.querySelector('[data-testid=topbar-workflow-tabs]')?.innerText ?? ''")
        )

    def nodes(self) -> dict[int, str]:
        """Node id -> type, of what is on the canvas."""
        found = self.run("return app.rootGraph.nodes.map(n => [Number(n.id), n.type])")
        return dict(found)

    def unknown_nodes(self) -> list[str]:
        """Types on the canvas that the front end does not know."""
        return list(
            self.run(
                "return app.rootGraph.nodes.map(n => n.type)"
                ".filter(t => !(t in LiteGraph.registered_node_types))"
            )
        )

    def widget_choices(self, node: int, widget: str) -> list[str]:
        """What a choice on a node offers."""
        return list(
            self.run(
                "const w = app.rootGraph.getNodeById(arguments[0]).widgets.find(w => w.name === arguments[1]);"
                "const v = w.options.values; return typeof v === 'function' ? v() : [...v]",
                node,
                widget,
            )
        )

    def complaints(self) -> list[str]:
        """The texts of every error, warning or dialog that the page shows now."""
        return list(
            self.run(
                """
                const places = ["[data-testid=error-overlay]", ".p-toast-message-error", ".p-toast-message-warn",
                                ".p-dialog", "[role=dialog]", "[role=alertdialog]"];
                return [...document.querySelectorAll(places.join(","))]
                  .filter(e => e.checkVisibility() && e.innerText.trim()).map(e => e.innerText.trim());
                """
            )
        )

    def prompt(self) -> Prompt:
        """The API form that the front end itself makes of what is on the canvas."""
        result = self.driver.execute_async_script(
            f"{APP} const done = arguments[0];"
            "app.graphToPrompt().then(p => done({output: p.output}), e => done({error: String(e)}))"
        )
        if "error" in result:
            raise BrowserError(f"The front end cannot make a prompt: {result['error']}")
        return result["output"]

    def serialized(self) -> Json:
        """The workflow as the front end would save it."""
        return self.run("return JSON.parse(JSON.stringify(app.rootGraph.serialize()))")

    def press_run(self) -> None:
        """Click the Run button; where the front end's curtain of loading got stuck before it, press ctrl-Enter."""
        from selenium.webdriver import ActionChains, Keys

        try:
            self.wait_for(self.is_ready, "a page that takes clicks", timeout=15)
        except BrowserError:
            ActionChains(self.driver).key_down(Keys.CONTROL).send_keys(Keys.ENTER).key_up(
                Keys.CONTROL
            ).perform()
        else:
            self.driver.find_element("css selector", "[data-testid=queue-button]").click()

    def idle(self) -> bool:
        """Whether the host has nothing queued or running."""
        return bool(
            self.driver.execute_async_script(
                "const done = arguments[0];"
                "fetch('/prompt').then(r => r.json()).then(p => done(p.exec_info.queue_remaining === 0))"
            )
        )

    def fit_view(self) -> None:
        """Show the whole workflow, with its texts however small, and nothing in front of it."""
        self.driver.execute_async_script(
            f"{APP} const done = arguments[0], manager = app.extensionManager;"
            "Promise.all([manager.setting.set('LiteGraph.Canvas.MinFontSizeForLOD', 0),"
            "             manager.setting.set('Comfy.Minimap.Visible', false)])"
            ".then(() => manager.command.execute('Comfy.Canvas.FitView')).then(done, done)"
        )
        time.sleep(1.0)  # it glides there

    def pictures(self, node: int) -> list[Shown]:
        """The pictures that a node shows, once they are loaded."""
        found = self.run(
            """
            const node = app.rootGraph.getNodeById(arguments[0]), ds = app.canvas.ds;
            const edge = app.canvas.canvas.getBoundingClientRect();
            const box = [edge.left + (node.pos[0] + ds.offset[0]) * ds.scale,
                         edge.top + (node.pos[1] + ds.offset[1]) * ds.scale,
                         node.size[0] * ds.scale, node.size[1] * ds.scale];
            return (node.imgs ?? []).filter(i => i.complete && i.naturalWidth)
              .map(i => ({source: i.src, width: i.naturalWidth, height: i.naturalHeight, box}));
            """,
            node,
        )
        return [Shown(each["source"], each["width"], each["height"], tuple(each["box"])) for each in found]

    def screenshot(self, path: Path) -> None:
        """Write what the page shows now as PNG."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if not self.driver.save_screenshot(str(path)):
            raise BrowserError(f"The screenshot {path} could not be written.")

    def console_errors(self) -> list[str]:
        """What the page wrote to its console as errors since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def wait_for(self, met: Callable[[], T], what: str, timeout: float = 60.0) -> T:
        """Poll until `met()` is true and return it; raises BrowserError with what the page complains of."""
        deadline = time.monotonic() + timeout
        while True:
            value = met()
            if value:
                return value
            if time.monotonic() > deadline:
                raise BrowserError(
                    f"The page did not show {what} in {timeout:.0f} s. It says: {self.complaints()}"
                )
            time.sleep(0.2)

    def run(self, script: str, *arguments: object) -> Any:
        """Run JavaScript in the page, with `app` being the front end."""
        return self.driver.execute_script(f"{APP} {script}", *arguments)
