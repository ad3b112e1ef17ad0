"""Write the table of settings that have to be typed into docs/security.md: `python docs/generate_security.py`."""

from pathlib import Path

from lexalign.config.rules.trust import list_typed_only

PAGE = Path(__file__).parent / "security.md"
MARK = "<!-- made from lexalign/config/schema by `python docs/generate_security.py`; a test compares it -->\n"


def make_page(text: str) -> str:
    """Return the page with the table of today after the mark."""
    before, _, _ = text.partition(MARK)
    rows = [f"| `{key}` | {because} |" for key, because in sorted(list_typed_only().items())]
    return (
        f"{before}{MARK}\n"
        + "\n".join(["| setting | because |", "|---|---|", *rows, "| `hydra.*` | Hydra can run code and write files |"])
        + "\n"
    )


if __name__ == "__main__":
    PAGE.write_text(make_page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
