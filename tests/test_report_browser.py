"""The report in a real browser: Debian's chromium, driven by Selenium. Skipped where one of them is missing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pvdr_bench.playing.film import write_video
from pvdr_bench.results.collect import collect
from pvdr_bench.results.report import Options, build_report
from pvdr_bench.runs.directory import RunDir
from tests.results_runs import make_run, resealed

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is missing: pip install 'pvdr-bench[browser]'")

from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="chromium or chromedriver is missing: "
                                "apt-get install chromium chromium-driver")
FAILED = "pvdr/reach/metaworld/cpu/seed-1"
FILMED = "ppo/reach/none/cpu/seed-0"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods and a floor on two tasks; one run has a film, one failed, all have losses and times."""
    root = tmp_path_factory.mktemp("results")
    for seed in range(3):
        for task in ("reach", "push"):
            path = make_run(root, [0.1, 0.4 + 0.1 * seed], task=task, seed=seed, env_steps=16000, title="PPO")
            for k in range(50):
                RunDir(path).train.append({"env_steps": 320 * k, "policy_loss": float(np.sin(k / 5)), "entropy": 1.0})
            resealed(path, wall_seconds=100.0 * (seed + 1))
        make_run(root, [0.0, 0.05], variant="random", seed=seed, env_steps=16000, title="Random")
    make_run(root, [0.2, 0.9], variant="pvdr", corpus="metaworld", env_steps=16000, title="PVDR <b>bold</b>")
    make_run(root, [0.1], variant="pvdr", corpus="metaworld", seed=1, done=False, failed="the worker died",
             title="PVDR <b>bold</b>", env_steps=16000)
    for path in (root / "pvdr").rglob("run.yaml"):
        (path.parent / "heartbeat.json").write_text(json.dumps({"env_steps": 16000, "wall_seconds": 300.0}))
    frames = np.zeros((12, 32, 48, 3), np.uint8)
    frames[:, :, :, 0] = np.linspace(0, 255, 12)[:, None, None]
    write_video(frames, root / FILMED / "videos" / "episode-0.mp4", fps=10)
    out = tmp_path_factory.mktemp("page") / "report.html"
    out.write_text(build_report(collect(root), Options(repetitions=200)).html, encoding="utf-8")
    return out


@pytest.fixture(scope="module")
def chrome() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1100,900",
                 "--autoplay-policy=no-user-gesture-required"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def browser(chrome: Any, page: Path) -> Any:
    """The page, freshly loaded; the logs of before are gone."""
    chrome.get("about:blank")
    chrome.get_log("browser"), chrome.get_log("performance")
    chrome.get(page.as_uri())
    return chrome


def all_of(browser: Any, selector: str) -> list[Any]:
    return browser.find_elements(By.CSS_SELECTOR, selector)


def one(browser: Any, selector: str) -> Any:
    return browser.find_element(By.CSS_SELECTOR, selector)


def wait(browser: Any, condition: Any) -> Any:
    return WebDriverWait(browser, 20, poll_frequency=0.1).until(condition)


def open_run(browser: Any, path: str) -> None:
    browser.execute_script("location.hash = arguments[0]", f"#run={path}")
    wait(browser, lambda b: one(b, "#run code").text == path)


def test_it_loads_without_errors_and_without_a_network(browser: Any, page: Path) -> None:
    assert len(all_of(browser, ".panel svg")) >= 3  # reach, push, all tasks
    open_run(browser, FILMED)
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {event["params"]["request"]["url"].partition("#")[0] for event in events
             if event["method"] == "Network.requestWillBeSent"}
    assert {url.partition(":")[0] for url in asked} <= {"file", "data", "about"}
    files = {url for url in asked if url.startswith("file:")}
    assert files == {page.as_uri()}


def test_a_foreign_script_does_not_run(browser: Any) -> None:
    browser.execute_script("const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
                           "document.body.append(s)")
    assert browser.execute_script("return window.ran") is None
    assert not all_of(browser, "#final b") and "PVDR <b>bold</b>" in one(browser, "#final").text


def test_toggles_change_the_plot_and_no_mean(browser: Any) -> None:
    def lines() -> int:
        return len(all_of(browser, ".panel:first-child .line"))

    def means() -> str:
        return one(browser, ".panel:first-child .line path").get_attribute("d")

    before, mean = lines(), means()
    seeds = len(all_of(browser, ".seed"))
    assert before == 1 and seeds == 8  # PPO on push; single seeds of PPO twice and of PVDR twice on reach
    one(browser, ".seeds input[data-value='0']").click()
    assert len(all_of(browser, ".seed")) == seeds - 3 and means() == mean
    next(b for b in all_of(browser, ".seeds button") if b.text == "none").click()
    assert not all_of(browser, ".seed") and means() == mean
    one(browser, ".methods input[data-value='0']").click()
    assert lines() == 0
    one(browser, ".methods input[data-value='0']").click()
    assert lines() == 1 and means() == mean


def test_bands_need_three_seeds(browser: Any) -> None:
    bands = [band.get_attribute("d") for band in all_of(browser, ".panel .band")]
    # PPO on push, on reach, and PVDR there with two seeds; PPO over both
    assert [bool(band) for band in bands] == [True, True, False, True]


def test_the_axis_changes(browser: Any) -> None:
    titles = [radio.get_attribute("value") for radio in all_of(browser, ".axis input")]
    assert titles == ["env_steps", "wall"]
    assert one(browser, ".panel .title").text == "env_steps"
    place = one(browser, ".panel .line path").get_attribute("d")
    one(browser, ".axis input[value=wall]").click()
    assert one(browser, ".panel .title").text == "wall time (minutes)"
    assert "share of the run's whole time" in one(browser, "#axis-note").text
    assert one(browser, ".panel .line path").get_attribute("d") != place


def column(browser: Any, table: str, index: int) -> list[str]:
    return [cell.text for cell in all_of(browser, f"#{table} tbody tr > :nth-child({index})")]


def test_tables_sort_both_ways(browser: Any) -> None:
    head = all_of(browser, "#all-runs thead th")[5]
    button = head.find_element(By.TAG_NAME, "button")
    button.click()
    assert head.get_attribute("aria-sort") == "ascending"
    values = column(browser, "all-runs", 6)
    numbers = [float(value) for value in values if value != "–"]
    assert numbers == sorted(numbers) and values[-1] == "–" and len(set(numbers)) > 3
    button.click()
    assert head.get_attribute("aria-sort") == "descending"
    again = column(browser, "all-runs", 6)
    assert again == [*reversed([v for v in values if v != "–"]), "–"]
    all_of(browser, "#all-runs thead th button")[0].click()
    names = column(browser, "all-runs", 1)
    assert names == sorted(names) and head.get_attribute("aria-sort") is None


def test_the_filter_hides_runs(browser: Any) -> None:
    one(browser, "#filter").send_keys("failed reach")
    rows = [row for row in all_of(browser, "#all-runs tbody tr") if row.is_displayed()]
    assert len(rows) == 1 and "failed" in rows[0].text and one(browser, "#filtered").text.startswith("1 of ")


def test_the_page_of_a_run(browser: Any) -> None:
    open_run(browser, FAILED)
    assert not one(browser, "#overview").is_displayed()
    assert "the worker died" in one(browser, ".failure").text and "RuntimeError" in one(browser, "pre").text
    assert one(browser, "#run-title") == browser.switch_to.active_element
    open_run(browser, FILMED)
    assert {fig.text.split("\n")[0] for fig in all_of(browser, ".spark .name")} == {"policy_loss", "entropy"}
    recipe = next(part for part in all_of(browser, "#run summary") if part.text == "Method")
    recipe.click()
    wait(browser, lambda b: "lr" in one(b, "#run details[open] table").text)
    browser.back()
    wait(browser, lambda b: one(b, ".failure").is_displayed())
    one(browser, ".crumbs a").click()
    wait(browser, lambda b: one(b, "#overview").is_displayed())


def test_a_video_plays(browser: Any) -> None:
    open_run(browser, FILMED)
    video = one(browser, "video")
    browser.execute_script("arguments[0].muted = true; arguments[0].play()", video)
    wait(browser, lambda b: b.execute_script("return arguments[0].currentTime > 0.2", video))
    size = browser.execute_script("const v = arguments[0]; return [v.videoWidth, v.videoHeight, v.error]", video)
    assert size == [48, 32, None]


def test_the_keyboard_reaches_everything(browser: Any) -> None:
    seen, body = [], one(browser, "body")
    body.send_keys(Keys.TAB)
    assert browser.switch_to.active_element.text == "Skip to the results"
    for _ in range(60):
        active = browser.switch_to.active_element
        seen.append((active.tag_name, active.get_attribute("id") or active.get_attribute("name")
                     or active.get_attribute("class")))
        if active.get_attribute("class") == "plot":
            break
        active.send_keys(Keys.TAB)
    kinds = set(seen)
    assert {("select", "theme"), ("button", "sort"), ("input", "axis"), ("div", "plot")} <= kinds
    plot = browser.switch_to.active_element
    assert browser.execute_script("return getComputedStyle(arguments[0]).outlineStyle", plot) == "solid"
    plot.send_keys(Keys.HOME)
    first = plot.get_attribute("aria-valuetext")
    plot.send_keys(Keys.ARROW_RIGHT)
    second = plot.get_attribute("aria-valuetext")
    assert first.startswith("8\u202f000 env_steps; PPO 10.0") and second.startswith("16\u202f000 env_steps; PPO 50.0")
    assert one(browser, ".readout").is_displayed() and len(all_of(browser, ".hairline circle")) == 1
    plot.send_keys(Keys.ESCAPE)
    assert not one(browser, ".readout").is_displayed()


def test_every_plot_has_a_table_with_the_same_numbers(browser: Any) -> None:
    panels = all_of(browser, ".panel")
    for panel in panels:
        panel.find_element(By.TAG_NAME, "summary").click()
        wait(browser, lambda b, panel=panel: panel.find_elements(By.TAG_NAME, "table"))
    data = json.loads(one(browser, "#data").get_attribute("textContent"))
    for panel, source in zip(panels, data["chapters"][0]["panels"], strict=True):
        rows = panel.find_elements(By.CSS_SELECTOR, "tbody tr")
        assert len(rows) == sum(len(line["y"]) for line in source["lines"]) + len(source["flats"])
        values = [cell.text for row in rows for cell in row.find_elements(By.CSS_SELECTOR, "td:nth-child(4)")]
        expected = [f"{100 * y:.1f}" for line in source["lines"] for y in line["y"]]
        assert values == expected + [f"{100 * flat['y']:.1f}" for flat in source["flats"]]


def test_names_for_those_who_hear_the_page(browser: Any) -> None:
    open_run(browser, FILMED)
    unnamed = browser.execute_script("""
        const named = (node) => node.getAttribute("aria-label") || node.labels?.length || node.textContent.trim()
          || node.alt;
        return [...document.querySelectorAll("button, input, select, a[href], img, video, svg[role=img], "
          + "[role=region], [role=slider]")].filter((node) => !named(node)).map((node) => node.outerHTML);""")
    assert unnamed == []
    for landmark in ("header", "nav[aria-label]", "main", "footer", "h1"):
        assert all_of(browser, landmark), landmark
    levels = browser.execute_script("""
        return [...document.querySelectorAll("main h1, main h2, main h3, main h4")].filter((h) => h.offsetParent)
            .map((h) => Number(h.tagName[1]))""")
    assert all(later <= earlier + 1 for earlier, later in zip(levels, levels[1:], strict=False))
    ids = browser.execute_script("return [...document.querySelectorAll('[id]')].map((node) => node.id)")
    assert len(ids) == len(set(ids))


def brightness(browser: Any, name: str, selector: str = "body") -> float:
    color = browser.execute_script("return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]",
                                   selector, name)
    return sum(float(part) for part in color[color.index("(") + 1:-1].split(",")[:3]) / 3


def test_dark_and_light(browser: Any) -> None:
    inks = {}
    for scheme, choice in (("dark", None), ("light", None), ("light", "dark"), ("dark", "light")):
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia",
                                {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        if choice:
            one(browser, f"#theme option[value={choice}]").click()
        paper, ink = brightness(browser, "backgroundColor"), brightness(browser, "color")
        stroke = browser.execute_script("return getComputedStyle(document.querySelector('.line path')).stroke")
        inks[choice or scheme] = float(stroke.removeprefix("oklab(").split()[0])
        assert (paper < 60 and ink > 200) if (choice or scheme) == "dark" else (paper > 240 and ink < 60)
    assert inks["dark"] > inks["light"] + 0.05  # of a method, lighter in the dark
    one(browser, "#theme option[value=dark]").click()
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert brightness(browser, "backgroundColor") > 240 and not one(browser, "header").is_displayed()
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


@pytest.mark.parametrize("width", [360, 1600])
def test_nothing_sticks_out(browser: Any, width: int) -> None:
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False})
    try:
        for path in (None, FILMED, FAILED):
            if path:
                open_run(browser, path)
            assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth"), path
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_chapters_are_apart(chrome: Any, tmp_path: Path) -> None:
    for scale in ("cpu", "gpu"):
        for seed in range(3):
            make_run(tmp_path, [0.1, 0.5 + 0.1 * seed], seed=seed, scale=scale, env_steps=16000, title="PPO")
    for k in range(9):
        make_run(tmp_path, [0.1, 0.1 * k], variant=f"m{k}", env_steps=16000, scale="gpu", title=f"Method {k}")
    out = tmp_path / "report.html"
    out.write_text(build_report(collect(tmp_path), Options(repetitions=200)).html, encoding="utf-8")
    chrome.get_log("browser")
    chrome.get(out.as_uri())
    one(chrome, "header nav a[href='#overview-2']").click()
    assert chrome.execute_script("return document.getElementById('overview-2').getBoundingClientRect().top") < 100
    lines = [len(all_of(chrome, f"#panels{suffix} .line")) for suffix in ("-1", "-2")]
    assert lines == [10, 1]
    ppo = next(label for label in all_of(chrome, "#controls-1 .methods label") if label.text == "PPO")
    ppo.find_element(By.TAG_NAME, "input").click()
    assert [len(all_of(chrome, f"#panels{suffix} .line")) for suffix in ("-1", "-2")] == [9, 1]
    ppo.find_element(By.TAG_NAME, "input").click()
    webdriver.ActionChains(chrome).move_to_element(ppo).perform()
    assert len(all_of(chrome, "#panels-1 .line.dim")) == 9 and not all_of(chrome, "#panels-2 .dim")
    assert [band.is_displayed() for band in all_of(chrome, "#panels-1 .band.lit")] == [True]
    webdriver.ActionChains(chrome).move_to_element(one(chrome, "#table-title-1")).perform()
    assert not all_of(chrome, ".dim") and not any(band.is_displayed() for band in all_of(chrome, "#panels-1 .band"))
    assert chrome.get_log("browser") == []


def test_a_method_looks_the_same_in_table_controls_and_curves(browser: Any) -> None:
    def look(selector: str) -> list[Any]:
        return browser.execute_script("""
            const node = document.querySelector(arguments[0]); const mark = node.querySelector("path.mark");
            const bare = mark.getAttribute("d"), line = node.querySelector("line, path:not(.mark)");
            return [getComputedStyle(node).color, bare, mark.getAttribute("class"),
                    line.getAttribute("stroke-dasharray")];
            """, selector)

    for index in (0, 1):
        table, box = look(f"#final [data-look='{index}'] svg"), look(f".methods input[data-value='{index}'] + svg")
        assert table == box == look(f".panel .line[data-row='{index}']")
    assert look("#final [data-look='0'] svg") != look("#final [data-look='1'] svg")
