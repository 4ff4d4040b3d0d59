"""Docstrings of this project as HTML.

They are plain text: paragraphs, sections in NumPy style, tables of arguments in aligned columns, and indented blocks,
which are kept as they are. The only markup is `code` in backticks, so <bos>, ||Y'X||_F and [n, d] are shown verbatim.
"""

import html
import re

SECTION = re.compile(r"(?m)^(Parameters|Attributes|Returns|Yields|Raises|Notes|Examples|See Also|References)\n-+$")
PROSE = ("Notes", "Examples", "References")
ROW = re.compile(r"(\S(?:.*?\S)?) {2,}(\S.*)")  # a name or several, two spaces or more, what it is

NAMES = re.compile(r"\w+(?:, \w+)*")  # names that speak for themselves
CHOICE = re.compile(r' +("[^"]*"|None|True|False):')  # a line of a table that says what one value means


def to_html(docstring):
    """A docstring, its indentation taken off as by inspect.getdoc, as HTML."""
    text, *sections = SECTION.split(docstring.strip("\n"))
    html_of = [_block(lines) for lines in _blocks(text)]
    for title, content in zip(sections[::2], sections[1::2], strict=True):
        html_of += [f"<p>{title}</p>", *_section(title, content)]
    return "\n".join(html_of)


def _section(title, content):
    """The HTML blocks of a NumPy section: a table of names, examples as they are, or paragraphs."""
    if title in PROSE:
        for block in re.split(r"\n{2,}", content.strip("\n")):
            lines = block.splitlines()
            yield f"<pre>{html.escape(block)}</pre>" if block.startswith(">>>") else _block(lines)
        return
    rows = []
    for line in content.strip("\n").splitlines():
        if line.startswith(" ") and rows:
            rows[-1][1].append(line.strip())
        elif line.strip():
            name, _, kind = line.partition(" : ")
            rows.append((name, [kind] if kind else []))
    cells = (f"<tr><th>{_names(name)}</th><td>{_inline(' '.join(text))}</td></tr>" for name, text in rows)
    yield f'<table class="arguments">{"".join(cells)}</table>'


def table_rows(lines):
    """Rows (names, text) of a block that is a table; None where it is none.

    Each line of a table begins a row, names first and then two spaces or more (or names alone, in a table where other
    rows say more), or is indented and carries on the row above it; what one value means keeps its line.
    """
    rows = []
    for line in lines:
        if not line.startswith(" "):
            found = ROW.fullmatch(line)
            if not found and not NAMES.fullmatch(line):
                return None
            rows.append(list(found.groups()) if found else [line, ""])
        elif rows:
            rows[-1][1] += ("\n" if CHOICE.match(line) else " ") + line.strip()
        else:
            return None
    return [tuple(row) for row in rows] if any(text for _, text in rows) else None


def _blocks(docstring):
    """Lines that stand together; indented ones with empty lines between them are one block."""
    blocks, apart = [], True
    for line in docstring.strip("\n").splitlines():
        if not line.strip():
            apart = True
            continue
        indented = line.startswith(" ")
        if apart and blocks and indented and _indented(blocks[-1]):
            blocks[-1] += ["", line]
        elif apart or (indented != _indented(blocks[-1]) and _table_start(blocks[-1]) is None):
            blocks.append([line])
        else:
            blocks[-1].append(line)
        apart = False
    return blocks


def _table_start(lines):
    """Where in a block a table begins: at its first line, or behind a sentence that ends in a colon; None: nowhere."""
    starts = [0, *(i for i, line in enumerate(lines[:-1], 1) if line.endswith(":"))]
    return next((i for i in starts if table_rows(lines[i:])), None)


def _indented(lines):
    return all(line.startswith(" ") or not line for line in lines)


def _block(lines):
    if _indented(lines):
        margin = min(len(line) - len(line.lstrip()) for line in lines if line)
        return f"<pre>{html.escape(chr(10).join(line[margin:] for line in lines))}</pre>"
    if (start := _table_start(lines)) is not None:
        cells = "".join(
            f"<tr><th>{_names(names)}</th><td>{_inline(text).replace(chr(10), '<br>')}</td></tr>"
            for names, text in table_rows(lines[start:])
        )
        before = _block(lines[:start]) + "\n" if start else ""
        return f'{before}<table class="arguments">{cells}</table>'
    return f"<p>{_inline(' '.join(line.strip() for line in lines))}</p>"


def _names(text):
    """The first column of a table: each of its words is a name (not <code>, which pdoc makes a link)."""
    return re.sub(r"[^\s,]+", lambda word: f"<var>{html.escape(word[0].strip('`'))}</var>", text)


def _inline(text):
    """Escaped, and what stands in backticks as code."""
    pieces = text.split("`")
    if len(pieces) % 2 == 0:  # one backtick without another
        return html.escape(text)
    return "".join(
        f"<code>{html.escape(piece)}</code>" if i % 2 else html.escape(piece) for i, piece in enumerate(pieces)
    )
