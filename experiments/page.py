"""Pages whose parts are rendered from results, between marks."""

import pathlib

ROOT = pathlib.Path(__file__).parent.parent
END = "<!-- end -->"


def renew(page: str, parts: dict[str, str]) -> str:
  """A page with what lies between its marks renewed.

  Args:
    page: Markdown.
    parts: texts by the line that begins them; `END` ends each. A mark that the
      page does not have is left out.
  """
  for begin, text in parts.items():
    if begin in page:
      before, rest = page.split(begin)
      _, after = rest.split(END, 1)
      page = f"{before}{begin}\n{text}\n{END}{after}"
  return page
