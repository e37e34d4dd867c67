"""A person arrives: logs in, chooses, works at an origin of their own."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from playwright.async_api import expect

from e2e.lab import START, Hub, Lab, Picture, Visitor

pytestmark = [pytest.mark.docker, pytest.mark.browser, pytest.mark.timeout(600)]


async def test_a_wrong_password_is_answered_with_a_sentence_and_what_to_do(mia: Visitor):
    page = await mia.context.new_page()
    await Hub(page, mia.person.platform).login("mia", "not-hers")
    error = page.get_by_role("alert").filter(has_text="This name and password do not go together.")
    await expect(error).to_contain_text("himalia users password")
    await page.close()


async def test_a_person_logs_in_chooses_and_jupyterlab_opens_at_an_origin_of_their_own(mia: Visitor, picture: Picture):
    page = await mia.context.new_page()
    hub = Hub(page, mia.person.platform)
    await page.goto(hub.url)
    await expect(page.get_by_role("heading", name="Log in")).to_be_visible()
    await picture(page, "login")
    await hub.login("mia", mia.person.password)
    await expect(page.get_by_role("heading", name="Your workspaces")).to_be_visible()
    await hub.choices()
    await expect(hub.choice("himalia/base:1").get_by_role("radio")).to_be_checked()
    await hub.choice("Medium").click()
    await picture(page, "spawn")
    await hub.start()
    await expect(page.get_by_role("heading", name="Your workspace is starting")).to_be_visible()
    await picture(page, "starting", moving=True)
    await page.wait_for_url("**/lab*", timeout=START)
    lab = Lab(page, mia.person)
    await lab.ready()
    assert f"{urlsplit(page.url).scheme}://{urlsplit(page.url).netloc}" == Lab.origin(mia.person) != hub.url
    assert mia.person.plan()["machine"]["name"] == "medium"
    await expect(page.locator(".Toastify__toast")).to_have_count(0)
    for title in ("VS Code", "TensorBoard"):
        assert (
            await lab.card(title)
            .locator("img")
            .evaluate("picture => picture.decode().then(() => picture.naturalWidth)")
        )
    await picture(page, "lab")
    await page.goto(f"{hub.url}/hub/home")
    await expect(page.locator(".workspace").filter(has_text="Running")).to_be_visible()
    await picture(page, "home")
    await page.close()
