"use strict";
(() => {
  // Tables: sort by a click on a heading, filter by text and by outcome.
  const compare = (numeric) => (a, b) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    return numeric ? Number(a) - Number(b) : a.localeCompare(b, "en", { numeric: true });
  };

  const sortBy = (table, heading) => {
    const headings = [...heading.parentElement.children];
    const column = headings.indexOf(heading);
    const numeric = heading.dataset.numeric === "yes";
    const first = numeric ? "descending" : "ascending";
    const now = heading.getAttribute("aria-sort");
    const next = now === "none" ? first : now === "ascending" ? "descending" : "ascending";
    headings.forEach((other) => other.setAttribute("aria-sort", other === heading ? next : "none"));
    const body = table.tBodies[0];
    const order = compare(numeric);
    const sign = next === "ascending" ? 1 : -1;
    const key = (row) => row.cells[column].dataset.sort ?? row.cells[column].textContent;
    const rows = [...body.rows].map((row) => [key(row), row]);
    rows.sort(([a], [b]) => (a === "" || b === "" ? order(a, b) : sign * order(a, b)));
    body.append(...rows.map(([, row]) => row));
  };

  const setUpTable = (block) => {
    const table = block.querySelector("table");
    for (const heading of table.tHead.rows[0].cells) {
      heading.querySelector("button").addEventListener("click", () => sortBy(table, heading));
    }
    const form = block.querySelector(".controls");
    if (!form) return;
    const text = form.querySelector(".filter");
    const onlyFailing = form.querySelector(".only-failing");
    const rows = [...table.tBodies[0].rows];
    const haystack = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
    const apply = () => {
      const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        const failing = row.classList.contains("failing");
        row.hidden = (onlyFailing?.checked && !failing) || !words.every((word) => haystack.get(row).includes(word));
        shown += !row.hidden;
      }
      form.querySelector(".count").textContent = `${shown} of ${rows.length}`;
      block.querySelector(".nothing").hidden = shown > 0;
    };
    form.addEventListener("input", apply);
    form.addEventListener("submit", (event) => event.preventDefault());
    block.addEventListener("show-row", (event) => {
      text.value = "";
      if (onlyFailing) onlyFailing.checked = false;
      apply();
      rows.forEach((row) => row.classList.toggle("shown", row.id === event.detail));
      document.getElementById(event.detail)?.scrollIntoView({ block: "center", inline: "nearest" });
    });
    apply();
  };

  // Plots: colours are names of the page's palette and follow the light or dark scheme.
  const resolved = (value, style) => {
    if (typeof value === "string") {
      const name = /^var\((--[\w-]+)\)$/.exec(value);
      return name ? style.getPropertyValue(name[1]).trim() : value;
    }
    if (Array.isArray(value)) return value.map((item) => resolved(item, style));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, resolved(item, style)]));
    }
    return value;
  };

  const spoken = (hover) =>
    hover.replaceAll("<br>", "; ").replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&");

  // Arrow keys go from point to point along x; Enter shows the point's row.
  const setUpKeys = (place, showRow) => {
    const points = place.data.flatMap((trace, curveNumber) =>
      (trace.customdata ?? []).map(([row], pointNumber) => ({ curveNumber, pointNumber, row, x: trace.x[pointNumber] })));
    points.sort((a, b) => a.x - b.x);
    let at = -1;
    place.addEventListener("keydown", (event) => {
      const target = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: points.length - 1 }[event.key];
      if (target !== undefined && points.length) {
        event.preventDefault();
        at = Math.min(Math.max(target, 0), points.length - 1);
        const { curveNumber, pointNumber } = points[at];
        Plotly.Fx.hover(place, [{ curveNumber, pointNumber }]);
        const text = place.data[curveNumber].text?.[pointNumber] ?? "";
        place.parentElement.querySelector(".spoken").textContent = spoken(text);
      } else if (event.key === "Enter" && at >= 0) {
        showRow(points[at].row);
      } else if (event.key === "Escape") {
        Plotly.Fx.unhover(place);
      }
    });
  };

  const setUpPlot = (place) => {
    const data = document.getElementById(`${place.id}-data`).textContent;
    const settings = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"] };
    const draw = () => {
      const figure = resolved(JSON.parse(data), getComputedStyle(document.documentElement));
      if (matchMedia("(pointer: coarse)").matches) figure.layout.dragmode = false; // fingers scroll the page
      return Plotly.react(place, figure.data, figure.layout, settings);
    };
    draw().then(() => {
      const rowsOf = place.dataset.rowsOf;
      const showRow = (row) => {
        const detail = `${rowsOf}-${row}`;
        document.getElementById(`table-block-${rowsOf}`)?.dispatchEvent(new CustomEvent("show-row", { detail }));
      };
      setUpKeys(place, showRow);
      place.on("plotly_click", (event) => {
        const point = event.points.find((one) => one.customdata !== undefined);
        if (point) showRow(point.customdata[0]);
      });
      place.dataset.ready = "yes";
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  };

  document.querySelectorAll(".table-block").forEach(setUpTable);
  document.querySelectorAll(".plot").forEach(setUpPlot);
})();
