"use strict";
// The table of all latents. Values stay in columns as they came. What changes is the order, an array of
// latents.

crossdiff.table = (() => {
  const { element, shown } = crossdiff;

  let grid = null;
  let columns = {}; // key -> values, by latent
  let present = []; // the columns that this training has
  let order = []; // latents, as the table shows them
  let count = 0;
  let open = null; // the latent that is shown next to the table
  let haystack = null; // what the search looks through, by latent
  let sorting = { key: "relative_norm_difference", ascending: false };
  const filters = new Map(); // key -> text that was typed
  let query = "";
  let showing = "all";
  let onOpen = () => {};
  let onChange = () => {};

  function tests() {
    const found = [];
    for (const column of present) {
      const typed = (filters.get(column.key) || "").trim();
      const passes = typed ? crossdiff.columns.test(column, typed) : null;
      const input = document.getElementById(`filter-${column.key}`);
      if (input) input.setAttribute("aria-invalid", String(Boolean(typed) && !passes));
      if (passes) found.push((latent) => passes(columns[column.key][latent]));
    }
    if (showing === "named") found.push((latent) => columns.name[latent] !== "");
    else if (showing === "confirmed") found.push((latent) => columns.confirmed[latent] === 1);
    else if (showing !== "all") found.push((latent) => columns.class[latent] === showing);
    if (query) {
      const explanations = columns.explanation || [];
      const words = (_, i) => `${i} ${columns.name[i]} ${explanations[i] || ""}`.toLowerCase();
      haystack = haystack || Array.from({ length: count }, words);
      found.push((latent) => haystack[latent].includes(query));
    }
    return found;
  }

  // Latents without a value come last, whichever way the others go.
  function compare(key, ascending) {
    const values = columns[key];
    const sign = ascending ? 1 : -1;
    return (a, b) => {
      const [x, y] = [values[a], values[b]];
      const [nothingX, nothingY] = [x === null || x === "", y === null || y === ""];
      if (nothingX || nothingY) return nothingX - nothingY || a - b;
      return x < y ? -sign : x > y ? sign : a - b;
    };
  }

  function refresh() {
    const passes = tests();
    order = [];
    for (let latent = 0; latent < count; latent++) {
      if (passes.every((pass) => pass(latent))) order.push(latent);
    }
    order.sort(compare(sorting.key, sorting.ascending));
    grid.setSortColumn(sorting.key, sorting.ascending);
    grid.invalidateAllRows();
    grid.updateRowCount();
    grid.scrollRowToTop(0);
    grid.render();
    highlight();
    onChange(order.length, count, sorting);
  }

  function cell(column) {
    return (_row, _cell, value, _definition, item) => {
      if (column.text) return value;
      if (column.key === "latent") {
        const link = element("a", { href: `#${grid.link}/${value}`, tabIndex: -1 }, String(value));
        return link;
      }
      const scaled = value === null ? null : value * (column.scale || 1);
      const text = column.format ? column.format(value) : shown(scaled, column.digits);
      const low = column.interval ? columns[`${column.key}_low`][item.latent] : null;
      if (low === null) return text;
      const range = ` ${shown(low)} to ${shown(columns[`${column.key}_high`][item.latent])}`;
      return element("span", {}, text, element("small", {}, range));
    };
  }

  function definitions(room) {
    // Columns get narrower before one hides behind a scroll bar. The explanation has what the others leave.
    const [taken, least] = ["width", "least"].map((key) => present.reduce((sum, one) => sum + one[key], 0));
    const share = Math.max(0, Math.min(1, (room - least) / (taken - least)));
    const width = (column) => Math.floor(column.least + share * (column.width - column.least));
    const spare = Math.max(0, room - taken);
    return present.map((column) => ({
      id: column.key,
      field: column.key,
      name: column.label,
      toolTip: column.help,
      width: width(column) + (column.key === "explanation" ? spare : 0),
      sortable: true,
      defaultSortAsc: Boolean(column.text) || column.key === "latent",
      cssClass: column.text ? "words" : "number",
      headerCssClass: column.text ? "words" : "number",
      formatter: cell(column),
    }));
  }

  function filterInput(column) {
    const help = column.text ? "part of the text" : "for example >0.5, <0.2 or 0.1..0.4";
    const placeholder = column.cssClass === "words" ? "contains" : "> < ..";
    const input = element("input", { id: `filter-${column.id}`, type: "search", placeholder, title: help });
    input.setAttribute("aria-label", `filter by ${column.name}: ${help}`);
    input.value = filters.get(column.id) || "";
    input.addEventListener("input", () => {
      filters.set(column.id, input.value);
      refresh();
    });
    // Arrows move in the text, not in the table.
    input.addEventListener("keydown", (event) => event.stopPropagation());
    return input;
  }

  // Make a new table for one training, from its table piece.
  function show(place, training, piece) {
    count = training.latents;
    columns = { ...piece.columns, latent: Array.from({ length: count }, (_, i) => i) };
    const named = columns.name.some(Boolean);
    present = crossdiff.columns.all.filter(({ key }) => key in columns && (key !== "name" || named));
    haystack = null;
    if (!(sorting.key in columns)) sorting = { key: "relative_norm_difference", ascending: false };
    if (grid) grid.destroy();
    grid = new Slick.Grid(
      place,
      { getLength: () => order.length, getItem: (row) => ({ latent: order[row] }) },
      definitions(place.clientWidth),
      {
        rowHeight: 30,
        headerRowHeight: 34,
        showHeaderRow: true,
        enableColumnReorder: false,
        enableTextSelectionOnCells: true,
        enableHtmlRendering: false, // strings from formatters are text
        dataItemColumnValueExtractor: (item, definition) => columns[definition.field][item.latent],
        frozenColumn: window.innerWidth > 700 ? 0 : -1,
      },
    );
    grid.link = training.link;
    grid.onHeaderRowCellRendered.subscribe((_event, { node, column }) => {
      node.replaceChildren(filterInput(column));
    });
    grid.onSort.subscribe((_event, { columnId, sortAsc }) => sort(columnId, sortAsc));
    grid.onClick.subscribe((event, { row }) => {
      if (!event.getNativeEvent().ctrlKey && !event.getNativeEvent().metaKey) onOpen(order[row]);
    });
    grid.onKeyDown.subscribe((event, { row }) => {
      if (event.getNativeEvent().key === "Enter") {
        onOpen(order[row]);
        event.getNativeEvent().preventDefault();
      }
    });
    // This renders the header row, now that its cells are listened to.
    grid.setColumns(definitions(place.clientWidth - 20));
    refresh();
  }

  function sort(key, ascending) {
    sorting = { key, ascending };
    refresh();
  }

  // The latent that stands before or after another in the table; undefined at its ends.
  function beside(latent, step) {
    const place = order.indexOf(latent);
    return place < 0 ? undefined : order[place + step];
  }

  // The row of the open latent, wherever the order has it.
  function highlight() {
    const row = order.indexOf(open);
    const cells = Object.fromEntries(present.map((column) => [column.key, "open"]));
    grid.setCellCssStyles("open", row < 0 ? {} : { [row]: cells });
  }

  // Show which latent is open, or that none is (null).
  function mark(latent) {
    open = latent;
    highlight();
    const row = order.indexOf(latent);
    if (row < 0) return;
    const { top, bottom } = grid.getViewport();
    const third = Math.floor((bottom - top) / 3);
    if (row <= top || row >= bottom - 1) grid.scrollRowToTop(Math.max(0, row - third));
  }

  return {
    show,
    sort,
    beside,
    mark,
    resize: () => grid && grid.resizeCanvas(),
    focus: () => grid && order.length && (grid.setActiveCell(grid.getViewport().top, 0), grid.focus()),
    search: (text) => ((query = text.trim().toLowerCase()), refresh()),
    filter: (value) => ((showing = value), refresh()),
    columns: () => present,
    opened: (listener) => (onOpen = listener),
    changed: (listener) => (onChange = listener),
  };
})();
