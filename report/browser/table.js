"use strict";
// The table of all latents. Values stay in columns as they came; what changes is the order, an array of latents.

crossdiff.table = (() => {
  const { element, shown } = crossdiff;

  // Every column that a training may have: how it is called, explained and shown.
  const COLUMNS = [
    { key: "latent", label: "latent", help: "number of the latent", width: 84 },
    { key: "name", label: "name", help: "name in the catalogue", text: true, width: 130 },
    { key: "class", label: "class", help: "by relative decoder norm difference; dead: never fires on held-out text", text: true, width: 88 },
    { key: "confirmed", label: "confirmed", help: "both ν below their thresholds: 1 yes, 0 no", width: 104, format: (value) => (value ? "yes" : "") },
    { key: "relative_norm_difference", label: "norm diff.", help: "relative decoder norm difference: 0 base only, ½ equal, 1 chat only", width: 108 },
    { key: "nu_error", label: "ν error", help: "near 0: only the chat model needs it; high: complete shrinkage; 95 % interval over documents", interval: true, width: 164 },
    { key: "nu_reconstruction", label: "ν reconstr.", help: "near 0: only the chat model needs it; high: latent decoupling; 95 % interval over documents", interval: true, width: 164 },
    { key: "frequency", label: "fires on %", help: "share of training tokens on which it fires, in per cent", scale: 100, digits: 3, width: 104 },
    { key: "template_share", label: "template", help: "share of its activations in chats that fall on template tokens", width: 96 },
    { key: "kl", label: "KL, its half", help: "KL reduction when its whole half of the chat-leaning latents (by norm difference) is patched; not of this latent alone", width: 116 },
    { key: "detection", label: "detection", help: "balanced accuracy of the explanation on contexts that it was not made from; 0.5 is chance; 95 % interval", interval: true, width: 164 },
    { key: "explanation", label: "explanation", help: "what it fires on, by its explanation", text: true, width: 300 },
  ];

  let grid = null;
  let columns = {}; // key -> values, by latent
  let present = []; // the entries of COLUMNS that this training has
  let order = []; // latents, as the table shows them
  let count = 0;
  let open = null; // the latent that is shown beside the table
  let haystack = null; // what the search looks through, by latent
  let sorting = { key: "relative_norm_difference", ascending: false };
  const filters = new Map(); // key -> text that was typed
  let query = "";
  let showing = "all";
  let onOpen = () => {};
  let onChange = () => {};

  // A test of values, from what was typed; null if it says nothing that can be tested.
  function test(column, typed) {
    if (column.text) {
      const wanted = typed.toLowerCase();
      return (value) => value.toLowerCase().includes(wanted);
    }
    const number = "([-+]?\\d*\\.?\\d+(?:e[-+]?\\d+)?)";
    const scale = column.scale || 1;
    let found = typed.match(new RegExp(`^(<=|>=|<|>|=|)\\s*${number}$`));
    if (found) {
      const bound = Number(found[2]) / scale;
      const compare = { "<": (v) => v < bound, ">": (v) => v > bound, "<=": (v) => v <= bound, ">=": (v) => v >= bound };
      const same = (v) => shown(v * scale, column.key === "latent" ? 0 : column.digits) === shown(bound * scale, column.key === "latent" ? 0 : column.digits);
      return (value) => value !== null && (compare[found[1]] || same)(value);
    }
    found = typed.match(new RegExp(`^${number}\\s*\\.\\.\\s*${number}$`));
    if (!found) return null;
    const [low, high] = [Number(found[1]) / scale, Number(found[2]) / scale];
    return (value) => value !== null && value >= low && value <= high;
  }

  function tests() {
    const found = [];
    for (const column of present) {
      const typed = (filters.get(column.key) || "").trim();
      const passes = typed ? test(column, typed) : null;
      const input = document.getElementById(`filter-${column.key}`);
      if (input) input.setAttribute("aria-invalid", String(Boolean(typed) && !passes));
      if (passes) found.push((latent) => passes(columns[column.key][latent]));
    }
    if (showing === "named") found.push((latent) => columns.name[latent] !== "");
    else if (showing === "confirmed") found.push((latent) => columns.confirmed[latent] === 1);
    else if (showing !== "all") found.push((latent) => columns.class[latent] === showing);
    if (query) {
      haystack = haystack || Array.from({ length: count }, (_, i) => `${i} ${columns.name[i]} ${(columns.explanation || [])[i] || ""}`.toLowerCase());
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
    for (let latent = 0; latent < count; latent++) if (passes.every((pass) => pass(latent))) order.push(latent);
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
      const text = column.format ? column.format(value) : shown(value === null ? null : value * (column.scale || 1), column.digits);
      const low = column.interval ? columns[`${column.key}_low`][item.latent] : null;
      if (low === null) return text;
      const range = ` ${shown(low)} to ${shown(columns[`${column.key}_high`][item.latent])}`;
      return element("span", {}, text, element("small", {}, range));
    };
  }

  function definitions(room) {
    const taken = present.reduce((sum, column) => sum + column.width, 0);
    return present.map((column) => ({
      id: column.key,
      field: column.key,
      name: column.label,
      toolTip: column.help,
      width: column.key === "explanation" ? Math.max(column.width, column.width + room - taken) : column.width,
      sortable: true,
      defaultSortAsc: Boolean(column.text) || column.key === "latent",
      cssClass: column.text ? "words" : "number",
      headerCssClass: column.text ? "words" : "number",
      formatter: cell(column),
    }));
  }

  function filterInput(column) {
    const help = column.text ? "part of the text" : "for example >0.5, <0.2 or 0.1..0.4";
    const input = element("input", { id: `filter-${column.id}`, type: "search", placeholder: column.cssClass === "words" ? "contains" : "> < ..", title: help });
    input.setAttribute("aria-label", `filter by ${column.name}: ${help}`);
    input.value = filters.get(column.id) || "";
    input.addEventListener("input", () => {
      filters.set(column.id, input.value);
      refresh();
    });
    input.addEventListener("keydown", (event) => event.stopPropagation()); // arrows move in the text, not in the table
    return input;
  }

  // Make the table anew for one training: its table piece, and the start of links to its latents.
  function show(place, training, piece) {
    count = training.latents;
    columns = { ...piece.columns, latent: Array.from({ length: count }, (_, i) => i) };
    present = COLUMNS.filter((column) => column.key in columns && (column.key !== "name" || columns.name.some(Boolean)));
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
    grid.onHeaderRowCellRendered.subscribe((_event, { node, column }) => node.replaceChildren(filterInput(column)));
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
    grid.setColumns(definitions(place.clientWidth - 20)); // renders the header row, now that its cells are listened to
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
    grid.setCellCssStyles("open", row < 0 ? {} : { [row]: Object.fromEntries(present.map((column) => [column.key, "open"])) });
  }

  // Show which latent is open, or that none is (null).
  function mark(latent) {
    open = latent;
    highlight();
    const row = order.indexOf(latent);
    if (row < 0) return;
    const { top, bottom } = grid.getViewport();
    if (row <= top || row >= bottom - 1) grid.scrollRowToTop(Math.max(0, row - Math.floor((bottom - top) / 3)));
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
