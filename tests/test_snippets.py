"""The code that the README and `unbroken keys show` give: copied into a file as it stands, it runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from engine.auth.keys import Key, parse_key
from server.keys_command import snippet
from tests.harness import KEY, NO_PROXY, publish
from tests.sdk.driving import HERE, javascript_missing, python_missing, require

pytestmark = pytest.mark.sdk
README = (Path(__file__).parent.parent / "README.md").read_text()
SUFFIX = {"js": ".mjs", "python": ".py", "curl": ".sh"}
PRINTED = re.compile(r"greeting.*hello")


def blocks(language, having):
    found = [block for block in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if having in block]
    assert found, f"the README has no {language} with {having!r}"
    return found


def run(sdk, code, tmp_path):
    """Run the file until it says that the message has come; what it has printed."""
    require(javascript_missing() if sdk == "js" else python_missing() if sdk == "python" else None)
    file = tmp_path / f"example{SUFFIX[sdk]}"
    file.write_text(code)
    if sdk == "js":
        (tmp_path / "node_modules").symlink_to(HERE / "node_modules")
    command = {"js": ["node"], "python": [sys.executable], "curl": ["sh"]}[sdk]
    environment = {**os.environ, **NO_PROXY, "UNBROKEN_KEY": KEY, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [*command, str(file)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    said = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            if PRINTED.search(line):
                break
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    return "".join(said)


@pytest.mark.parametrize(("sdk", "having"), [("js", "from 'ably'"), ("python", "import AblyRealtime")])
def test_the_readme_s_code_publishes_and_hears_itself(server, tmp_path, sdk, having):
    for code in blocks(sdk, having):
        assert "app.key:secret" in code and "8080" in code
        code = code.replace("app.key:secret", KEY).replace("8080", str(server.port))
        assert PRINTED.search(said := run(sdk, code, tmp_path)), said


@pytest.mark.parametrize("sdk", ["js", "python", "curl"])
def test_what_keys_show_gives_works(server, tmp_path, sdk):
    code = snippet(Key(*parse_key(KEY)), sdk, f"http://127.0.0.1:{server.port}")
    if sdk == "curl":
        assert '"messageId"' in run(sdk, code, tmp_path)
        return

    # It only listens: with what was published before it came, nobody has to wait for it.
    publish(server.address, "room:1", {"name": "greeting", "data": "hello"})
    code = code.replace("'room:1'", "'[?rewind=1]room:1'").replace('"room:1"', '"[?rewind=1]room:1"')
    assert PRINTED.search(said := run(sdk, code, tmp_path)), said
