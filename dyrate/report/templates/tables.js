/* Sorting (by vendor/sortable.js) and filtering of every table with the class `sortable`. Without this script
   the page shows all rows in the order in which the study has them. */
(() => {
  const NUMBER = /^[^\d]*?([+\u2212-]?\d[\d.,]*)/;

  // A cell sorts by its first number, and by its words where it has none; what was not measured comes last.
  const key = (cell) => {
    const text = cell.textContent.trim();
    const found = NUMBER.exec(text.replace(/[\u25b2\u25bc\u2713\u2717]/g, "").trim());
    if (cell.tagName === "TH" || !found) return /^[\u2013\u2717]?$/.test(text) ? "" : text;
    return String(parseFloat(found[1].replace("\u2212", "-").replace(/,/g, "")));
  };

  // The column under each heading that has one of its own, rows and columns spanned.
  const columns = (head) => {
    const taken = [], found = [];
    [...head.rows].forEach((row, y) => {
      let x = 0;
      for (const cell of row.cells) {
        while (taken[y]?.[x]) x++;
        for (let down = 0; down < cell.rowSpan; down++)
          for (let right = 0; right < cell.colSpan; right++) (taken[y + down] ??= [])[x + right] = true;
        if (cell.colSpan === 1 && y + cell.rowSpan === head.rows.length) found.push([cell, x]);
        x += cell.colSpan;
      }
    });
    return found;
  };

  const prepare = (table) => {
    const sorted = columns(table.tHead);
    for (const heading of table.tHead.querySelectorAll("th")) heading.classList.add("no-sort");
    for (const [heading, column] of sorted) {
      if (!heading.textContent.trim()) continue;
      heading.classList.remove("no-sort");
      heading.dataset.sortCol = column;
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...heading.childNodes);
      heading.append(button);
    }
    table.classList.add("n-last");
    for (const row of table.querySelectorAll("tbody:not(.group) tr"))
      for (const cell of row.cells) cell.dataset.sort ??= key(cell);
  };

  // The library looks at one row of headings; a table here may have two.
  document.addEventListener("click", (event) => {
    const heading = event.target.closest?.("table.sortable thead th");
    if (!heading || heading.classList.contains("no-sort")) return;
    for (const other of heading.closest("thead").querySelectorAll("th[aria-sort]"))
      if (other !== heading) other.removeAttribute("aria-sort");
  }, true);

  const labelled = (text, control) => {
    const label = document.createElement("label");
    label.append(text + " ", control);
    return label;
  };

  const choice = (values, any) => {
    const select = document.createElement("select");
    for (const value of ["", ...values]) select.append(new Option(value || any, value));
    return select;
  };

  const filter = (table) => {
    const rows = () => [...table.querySelectorAll("tbody:not(.group) tr")];
    const bar = document.createElement("form");
    bar.className = "filter";
    bar.setAttribute("aria-label", "Filter " + (table.closest("[aria-label]")?.getAttribute("aria-label") || "the table"));
    const search = document.createElement("input");
    search.type = "search";
    bar.append(labelled("Rows with", search));
    const selects = [["model", "Model", "all"], ["origin", "Whose", "all"]].flatMap(([name, title, any]) => {
      const values = [...new Set(rows().map((row) => row.dataset[name]).filter(Boolean))];
      if (values.length < 2) return [];
      const select = choice(values, any);
      select.name = name;
      bar.append(labelled(title, select));
      return [[name, select]];
    });
    const count = document.createElement("output");
    bar.append(count);
    const apply = () => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0, all = 0;
      for (const body of table.tBodies) {
        if (body.classList.contains("group")) continue;
        let here = 0;
        for (const row of body.rows) {
          const text = row.cells[0].textContent.toLowerCase();
          const fits = words.every((word) => text.includes(word)) &&
            selects.every(([name, select]) => !select.value || row.dataset[name] === select.value);
          row.hidden = !fits;
          here += fits;
          all++;
        }
        shown += here;
        const group = body.previousElementSibling;
        if (group?.classList.contains("group")) group.hidden = !here;
      }
      count.textContent = shown < all ? `${shown} of ${all} rows` : "";
    };
    bar.addEventListener("input", apply);
    bar.addEventListener("submit", (event) => event.preventDefault());
    (table.closest(".scroll") || table).before(bar);
  };

  for (const table of document.querySelectorAll("table.sortable")) {
    prepare(table);
    if (table.querySelectorAll("tbody:not(.group) tr").length > 8) filter(table);
  }

  // A link to what is folded opens it.
  const unfold = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
    if (target?.tagName === "DETAILS") target.scrollIntoView();
  };
  addEventListener("hashchange", unfold);
  // On paper nothing is folded but what only a program reads, and long lists of names.
  const read = "main details:not(.data, [id^='command'], [id^='command'] *)";
  addEventListener("beforeprint", () => document.querySelectorAll(read).forEach((d) => { d.open = true; }));
  unfold();
})();
