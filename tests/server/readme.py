"""The blocks of code in the README that stand below a title in bold: what people copy."""

from serving import ROOT


def block(title):
    """The indented lines below the paragraph that begins with **`title`**."""
    lines = (ROOT / "README.md").read_text().splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith(f"**{title}**")]
    assert len(starts) == 1, f"README.md has {len(starts)} paragraphs that begin with **{title}**"
    at = starts[0]
    while not lines[at].startswith("    "):
        at += 1
    code = []
    while lines[at].startswith("    ") or not lines[at]:
        code.append(lines[at][4:])
        at += 1
    return "\n".join(code).strip() + "\n"
