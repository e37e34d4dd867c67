"""Save environment, from the button to a colleague's spawn page."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import expect

from e2e.lab import SAVE, Hub, Lab, Picture, Sheet, Visitor

pytestmark = [pytest.mark.docker, pytest.mark.browser, pytest.mark.timeout(600)]

#: Notes each phase the dialog shows as the one of now; the shortest lasts less than a poll.
WATCH = """
window.phases = [];
new MutationObserver(() => {
  const now = document.querySelector('.himalia-Phase.himalia-mod-now .himalia-Phase-name')?.textContent;
  if (now && now !== window.phases.at(-1)) window.phases.push(now);
}).observe(document.body, { subtree: true, childList: true, attributes: true });
"""
#: Something of a size to see: what is random cannot be packed smaller.
INSTALL = "mkdir -p /usr/local/share/digits && head -c 40M /dev/urandom > /usr/local/share/digits/images.bin"
ORDER = ["Committing", "Pushing", "Verifying"]


async def test_an_environment_is_saved_shared_and_offered_to_the_group(lab: Lab, ole: Visitor, picture: Picture):
    lab.person.run("sudo", "bash", "-c", INSTALL)
    sheet = await lab.save()
    await sheet.node.get_by_label("Name").fill("digits")
    await sheet.node.get_by_label("Note").fill("with the digits' images")
    await expect(sheet.node).to_contain_text("Becomes mia/digits:1, a new environment, private until you share it.")
    await lab.page.evaluate(WATCH)
    await sheet.button("Save environment").click()
    await expect(sheet.node.locator(".himalia-Phase.himalia-mod-now")).to_be_visible()
    await expect(sheet.node.locator(".himalia-Phase.himalia-mod-done").first).to_be_visible(timeout=SAVE)
    await picture(lab.page, "save", moving=True)
    await expect(sheet.state).to_have_text("Saved", timeout=SAVE)
    await expect(sheet.node).to_contain_text(re.compile(r"mia/digits:1 is saved\. It adds 4[\d.]+ MB\."))
    seen = await lab.page.evaluate("window.phases")
    assert seen
    assert seen == [phase for phase in ORDER if phase in seen]
    await expect(sheet.node.locator(".himalia-Steps")).to_contain_text("Open a workspace from it")
    await picture(lab.page, "saved")
    await share(lab, sheet, picture)
    await offered(ole, picture)


async def share(lab: Lab, saved: Sheet, picture: Picture) -> None:
    await saved.button("Share…").click()
    sheet = Sheet(lab.page, "Share mia/digits")
    await sheet.node.get_by_role("radio", name=re.compile("^Group")).check()
    await expect(sheet.node).to_contain_text("Programs in it run as them")
    await picture(lab.page, "share")
    await sheet.button("Share").click()
    await expect(lab.toast("mia/digits is shared with group optics.")).to_be_visible()


async def offered(ole: Visitor, picture: Picture) -> None:
    page = await ole.context.new_page()
    hub = Hub(page, ole.person.platform)
    await hub.login("ole", ole.person.password)
    await hub.choices()
    await hub.choice("mia/digits:1").click()
    warning = page.get_by_text("Made by mia; programs in it run as you.")
    await expect(warning).to_be_visible()
    await picture(page, "offered")
