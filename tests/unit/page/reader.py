"""Reads a page as a browser does, and checks that it is whole."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "link", "br", "img"}


class Reader(HTMLParser):
    """Collects elements, their attributes and the text, and checks that elements are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.opened

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.opened.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())

    def count(self, tag: str, **attributes: str) -> int:
        return sum(
            name == tag and all(found.get(key.rstrip("_")) == value for key, value in attributes.items())
            for name, found in self.elements
        )

    @property
    def text(self) -> str:
        return " ".join(word for word in self.words if word)
