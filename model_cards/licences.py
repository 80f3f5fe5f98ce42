"""The terms of weights: which forbid commercial use, and what is inherited by what is made from them."""

import re

from videomae.model_cards.zoo import Checkpoint, entry, releases

NON_COMMERCIAL = re.compile(r"(^|[-\s])nc([-\s]|$)|non-?commercial", re.IGNORECASE)
LICENCE_URLS = {
    "cc-by-nc-4.0": "https://creativecommons.org/licenses/by-nc/4.0/",
    "apache-2.0": "https://www.apache.org/licenses/LICENSE-2.0",
    "mit": "https://opensource.org/license/mit",
}


def is_non_commercial(license: str | None) -> bool:
    return bool(license and NON_COMMERCIAL.search(license))


def licence_link(license: str) -> str:
    """A licence as Markdown, linked where its text has a well-known home."""
    url = LICENCE_URLS.get(license)
    return f"[{license}]({url})" if url else license


def licence_of_release(checkpoint: Checkpoint) -> tuple[str, str]:
    """(licence, sentences): the strictest along the chain of weights that the checkpoint was made from."""
    own = checkpoint.license
    note = f" {checkpoint.license_note}" if checkpoint.license_note else ""
    text = f"The weights were released under **{licence_link(own)}**.{note}"
    ancestor = checkpoint
    while ancestor.base_model and not is_non_commercial(ancestor.license):
        ancestor = entry(ancestor.base_model)
    if is_non_commercial(own) or not is_non_commercial(ancestor.license):
        return own, text
    return ancestor.license, (
        f"{releases()[checkpoint.release].title} publishes this file under {licence_link(own)}, but it goes back to "
        f"`{ancestor.name}`, which is under **{licence_link(ancestor.license)}**; the stricter terms are the ones given here."
    )


def choose_licence(given: str | None, inherited: str | None, base_model: str | None) -> tuple[str | None, str]:
    """The licence of the weights and where it comes from. Non-commercial terms cannot be shed by training on."""
    if is_non_commercial(inherited) and not is_non_commercial(given):
        return inherited, f"inherited from {base_model}"
    if given:
        return given, "chosen by whoever trained them"
    return inherited, f"inherited from {base_model}" if inherited else ""
