"use strict";
// One latent: what it is, what it fires on, and where it recurs.

crossdiff.latent = (() => {
  const { element, shown } = crossdiff;
  const SETS = {
    best_norm: "best half by norm difference",
    worst_norm: "worst half by norm difference",
    best_scaling: "best half by latent scaling",
    worst_scaling: "worst half by latent scaling",
  };
  const PARTS = ["", "template: header", "template: end of turn"];

  function range(columns, key, latent) {
    const value = columns[key][latent];
    const low = columns[`${key}_low`][latent];
    return shown(value) + (low === null ? "" : ` (${shown(low)} to ${shown(columns[`${key}_high`][latent])})`);
  }

  function facts(piece, latent) {
    const c = piece.columns;
    const [base, chat] = [c.norm_base[latent], c.norm_chat[latent]];
    const bar = (value) => element("span", { className: "bar", style: `--share: ${value / (Math.max(base, chat) || 1)}` });
    const rows = [
      ["class", `${c.class[latent]}${c.confirmed[latent] ? ", confirmed" : ""}`],
      ["relative norm difference", shown(c.relative_norm_difference[latent])],
      ["decoder norm, base", element("span", {}, bar(base), ` ${shown(base)}`)],
      ["decoder norm, chat", element("span", {}, bar(chat), ` ${shown(chat)}`)],
      ["cosine of both directions", shown(c.decoder_cosine[latent])],
      ["ν error", range(c, "nu_error", latent)],
      ["ν reconstruction", range(c, "nu_reconstruction", latent)],
      ["fires on", `${shown(c.frequency[latent] * 100, 3)} % of training tokens (${c.active_tokens[latent].toLocaleString("en")})`],
      ["largest activation", shown(c.max_activation[latent])],
      ["on template tokens", c.template_share[latent] === null ? "– (never fires in chats)" : `${shown(c.template_share[latent] * 100, 0)} % of its activations in chats`],
    ];
    return element("dl", {}, ...rows.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
  }

  function section(title, help, ...content) {
    const heading = element("h3", {}, title);
    return element("section", {}, heading, ...(help ? [element("p", { className: "soft" }, help)] : []), ...content);
  }

  function causal(piece, latent) {
    const sets = piece.kl_sets.filter((set) => set.members.includes(latent));
    if (!sets.length) return [];
    const percent = (value) => (value === null ? "–" : `${shown(value * 100, 0)} %`);
    const lines = sets.map((set) =>
      element("li", {}, `${SETS[set.set] || set.set.replace("_", " half ")} (${set.members.length} latents): KL reduced by ${percent(set.reduction)} (${percent(set.reduction_low)} to ${percent(set.reduction_high)})`),
    );
    return [section("Causal effect of sets that hold it", "Sets are patched as a whole; what this latent does alone was not measured.", element("ul", {}, ...lines))];
  }

  function explanations(details) {
    return details.explanations.map((found) =>
      section(
        `Explained by a ${found.by}`,
        "",
        element("p", {}, found.text || "No explanation."),
        element("p", { className: "soft" }, found.detection === null ? "Not scorable." : `Detection (balanced accuracy) ${shown(found.detection)} (${shown(found.detection_low)} to ${shown(found.detection_high)}) on ${found.contexts} contexts; 0.50 is chance.`),
      ),
    );
  }

  function tokens(details, vocabulary) {
    if (!details.promoted.length) return [];
    const list = (title, moved) => {
      const items = moved.map(([token, by]) => element("li", {}, element("code", {}, vocabulary[token]), ` ${by > 0 ? "+" : "−"}${shown(Math.abs(by), 1)}`));
      return element("div", {}, element("h4", {}, title), element("ul", { className: "tokens" }, ...items));
    };
    const help = "The chat direction alone through the chat model's final norm and head; logits against the mean over the vocabulary.";
    return [section("Tokens that it moves", help, list("promoted", details.promoted), list("suppressed", details.suppressed))];
  }

  function link(training, latent) {
    return element("a", { href: `#${training.link}/${latent}` }, `${training.link}/${latent}`);
  }

  function relatives(details, training, trainings) {
    const rows = [
      ...details.twins.map(([other, cosine, divergence]) => [link(training, other), shown(cosine), `twin; they fire apart on ${shown(divergence)} of their strong tokens`]),
      ...details.elsewhere.map(([number, other, cosine, matched]) => [link(trainings[number], other), shown(cosine), matched ? "recurs: each is the other's nearest" : "nearest there; no match"]),
      ...details.near.map(([other, cosine]) => [link(training, other), shown(cosine), "near, same crosscoder"]),
    ];
    if (!rows.length) return [section("Relatives", "", element("p", {}, "Not compared: it never fires on held-out text, or nothing is there to compare it with."))];
    const head = element("tr", {}, ...["latent", "cosine", "what it is"].map((text) => element("th", { scope: "col" }, text)));
    const body = rows.map((row) => element("tr", {}, ...row.map((value) => element("td", {}, value))));
    return [section("Relatives", "", element("table", { className: "relatives" }, element("thead", {}, head), element("tbody", {}, ...body)))];
  }

  function context(found, vocabulary, largest) {
    const values = new Map(found.active);
    const spans = found.tokens.map((token, place) => {
      const value = values.get(place) || 0;
      const part = PARTS[Number(found.template[place])];
      const about = [value ? `activation ${shown(value)}, ${shown((value / largest) * 100, 0)} % of the largest` : "silent", part].filter(Boolean).join("; ");
      const span = element("span", { title: about, className: [value ? "active" : "", part ? "template" : ""].join(" ").trim() }, vocabulary[token]);
      if (value) {
        span.style.setProperty("--strength", (value / largest).toFixed(3));
        span.dataset.value = shown(value, 1);
      }
      return span;
    });
    return element("p", { className: "context" }, ...spans);
  }

  function contexts(details, vocabulary, largest, place) {
    const readout = element("output", { className: "readout" }, "Point at a token, or tap it, for its activation.");
    const tell = (event) => {
      const span = event.target.closest(".context span");
      if (span) readout.textContent = `“${span.textContent}” ${span.title}`;
    };
    const values = element("input", { type: "checkbox", id: "show-values" });
    values.addEventListener("change", () => place.classList.toggle("with-values", values.checked));
    place.classList.remove("with-values");
    const lines = (chosen) => chosen.map((found) => context(found, vocabulary, largest));
    const strongest = details.contexts.filter((found) => found.strongest);
    const quantiles = [...new Set(details.contexts.map((found) => found.quantile).filter((quantile) => quantile !== null))].sort((a, b) => b - a);
    const sampled = quantiles.flatMap((quantile) => [
      element("h4", {}, `peak up to ${shown(quantile * 100, 0)} % of the largest activation`),
      ...lines(details.contexts.filter((found) => found.quantile === quantile)),
    ]);
    const made = element(
      "div",
      {},
      section(
        "Contexts",
        "The darker and the thicker underlined, the stronger. Dotted boxes: tokens of the chat template. ↵ is a line break.",
        element("p", {}, element("label", {}, values, " write the values beside the tokens")),
        readout,
        element("h4", {}, "strongest"),
        ...(strongest.length ? lines(strongest) : [element("p", {}, "None: it never fires on the text that was searched.")]),
      ),
      ...(sampled.length ? [section("Drawn at random", "From every quantile of its activation: the strongest contexts alone make a latent look cleaner than it is.", ...sampled)] : []),
    );
    made.addEventListener("mouseover", tell);
    made.addEventListener("click", tell);
    return made;
  }

  function catalogue(training, piece, latent) {
    const entry = `- {crosscoder: ${training.crosscoder}, seed: ${training.seed}, weights: "${piece.weights}", latent: ${latent}, name: "", note: ""}`;
    return section("Name it", "The line for the catalogue (config key catalogue), under latents:", element("pre", { tabIndex: 0 }, entry));
  }

  // Put a latent into ``place``. ``trainings`` are all of the run, for links to the others.
  async function show(place, training, trainings, piece, latent, chunk) {
    const [pieces, vocabulary] = await Promise.all([
      crossdiff.load(`${training.name}/${Math.floor(latent / chunk) * chunk}`),
      crossdiff.load("vocabulary"),
    ]);
    const details = pieces[latent % chunk];
    const name = piece.columns.name[latent];
    const stale = piece.stale.filter((entry) => entry.latent === latent);
    place.replaceChildren(
      element("h2", { tabIndex: -1 }, `${training.link}/${latent}`, ...(name ? [element("span", { className: "given-name" }, ` ${name}`)] : [])),
      ...(piece.notes[latent] ? [element("p", {}, piece.notes[latent])] : []),
      ...stale.map((entry) => element("p", { className: "caution" }, `The catalogue calls it “${entry.name}”, but of other weights (${entry.weights}): a stale name, not used.`)),
      ...explanations(details),
      facts(piece, latent),
      contexts(details, vocabulary, piece.columns.max_activation[latent], place),
      ...tokens(details, vocabulary),
      ...relatives(details, training, trainings),
      ...causal(piece, latent),
      catalogue(training, piece, latent),
    );
  }

  return { show };
})();
