"use strict";
// Tables sort by their header buttons: first press descending for numbers, ascending for words. Undefined values
// (an empty data-v) stay last in both directions.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const status = table.parentElement.nextElementSibling;
  for (const button of table.querySelectorAll("thead button")) {
    button.addEventListener("click", () => {
      const header = button.closest("th");
      const column = Number(header.dataset.column);
      const words = header.classList.contains("text");
      const now = header.getAttribute("aria-sort");
      const up = now === "none" ? words : now === "descending";
      for (const other of table.querySelectorAll("th[aria-sort]")) other.setAttribute("aria-sort", "none");
      header.setAttribute("aria-sort", up ? "ascending" : "descending");
      const value = row => row.cells[column].dataset.v;
      const compare = (a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === "" || y === "") return (x === "") - (y === "");
        return (up ? 1 : -1) * (words ? x.localeCompare(y) : Number(x) - Number(y));
      };
      body.append(...Array.from(body.rows).sort(compare));
      status.textContent = `Sorted by ${button.textContent}, ${up ? "ascending" : "descending"}`;
    });
  }
}
// what is folded away on the screen belongs on paper
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(part => { part.open = true; }));
