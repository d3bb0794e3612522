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
  const KINDS = { random: "random half", group: "group of confirmed latents" };
  const PARTS = ["", "template: header", "template: end of turn"];

  function range(columns, key, latent) {
    const value = columns[key][latent];
    const low = columns[`${key}_low`][latent];
    const high = columns[`${key}_high`][latent];
    return shown(value) + (low === null ? "" : ` (${shown(low)} to ${shown(high)})`);
  }

  function facts(piece, latent) {
    const c = piece.columns;
    const [base, chat] = [c.norm_base[latent], c.norm_chat[latent]];
    const longest = Math.max(base, chat) || 1;
    const bar = (value) => element("span", { className: "bar", style: `--share: ${value / longest}` });
    const frequency = `${shown(c.frequency[latent] * 100, 3)} % of training tokens`;
    const onTemplate = c.template_share[latent];
    const verdict = c.confirmed[latent] ? ", confirmed" : "";
    const bySet = c.norms_set && c.norms_set[latent] ? " (set by the loss, not found)" : "";
    const mirrored = c.class[latent] === "base-only" ? ", mirrored" : "";
    const why = piece.does_not_apply && `does not apply: ${piece.does_not_apply}`;
    const rows = [
      ["class", c.class[latent] ? `${c.class[latent]}${bySet}${verdict}` : why],
      ...(c.part ? [["part of its loss", c.part[latent]]] : []),
      ["relative norm difference", why || `${shown(c.relative_norm_difference[latent])}${bySet}`],
      ["decoder norm, base", why || element("span", {}, bar(base), ` ${shown(base)}`)],
      ["decoder norm, chat", element("span", {}, bar(chat), ` ${shown(chat)}`)],
      ["cosine of both directions", why || shown(c.decoder_cosine[latent])],
      [`ν error${mirrored}`, why || range(c, "nu_error", latent)],
      [`ν reconstruction${mirrored}`, why || range(c, "nu_reconstruction", latent)],
      ["fires on", `${frequency} (${c.active_tokens[latent].toLocaleString("en")})`],
      ["largest activation", shown(c.max_activation[latent])],
      [
        "on template tokens",
        onTemplate === null
          ? "– (never fires in chats)"
          : `${shown(onTemplate * 100, 0)} % of its activations in chats`,
      ],
    ];
    const pair = ([name, value]) => [element("dt", {}, name), element("dd", {}, value)];
    return element("dl", {}, ...rows.flatMap(pair));
  }

  function section(title, help, ...content) {
    const heading = element("h3", {}, title);
    const about = help ? [element("p", { className: "soft" }, help)] : [];
    return element("section", {}, heading, ...about, ...content);
  }

  function causal(piece, latent) {
    const sets = piece.kl_sets.filter((set) => set.members.includes(latent));
    if (!sets.length) return [];
    const percent = (value) => (value === null ? "–" : `${shown(value * 100, 0)} %`);
    const lines = sets.map((set) => {
      const [kind, number] = set.set.split("_");
      const name = SETS[set.set] || `${KINDS[kind]} ${number}`;
      const interval = `${percent(set.reduction_low)} to ${percent(set.reduction_high)}`;
      const effect = `KL is reduced by ${percent(set.reduction)} (${interval})`;
      return element("li", {}, `${name} (${set.members.length} latents): ${effect}`);
    });
    const help = "Sets are patched as a whole. What this latent does alone was not measured.";
    return [section("Causal effect of sets that hold it", help, element("ul", {}, ...lines))];
  }

  function score(found) {
    if (found.detection === null) return "It could not be scored.";
    const interval = `${shown(found.detection_low)} to ${shown(found.detection_high)}`;
    const detection = `${shown(found.detection)} (${interval}) on ${found.contexts} contexts`;
    return `Detection (balanced accuracy) is ${detection}. By chance it would be 0.50.`;
  }

  function explanations(details) {
    return details.explanations.map((found) =>
      section(
        `Explained by a ${found.by}`,
        "",
        element("p", {}, found.text || "There is no explanation."),
        element("p", { className: "soft" }, score(found)),
      ),
    );
  }

  function tokens(details, vocabulary) {
    if (!details.promoted.length) return [];
    const list = (title, moved) => {
      const items = moved.map(([token, by]) => {
        const change = ` ${by > 0 ? "+" : "−"}${shown(Math.abs(by), 1)}`;
        return element("li", {}, element("code", {}, vocabulary[token]), change);
      });
      return element("div", {}, element("h4", {}, title), element("ul", { className: "tokens" }, ...items));
    };
    const help =
      "The chat direction alone goes through the chat model's final norm and head. " +
      "Numbers are logits against the mean over the vocabulary.";
    const lists = [list("promoted", details.promoted), list("suppressed", details.suppressed)];
    return [section("Tokens that it moves", help, ...lists)];
  }

  function link(training, latent) {
    return element("a", { href: `#${training.link}/${latent}` }, `${training.link}/${latent}`);
  }

  function relatives(details, training, trainings) {
    const twin = ([other, cosine, divergence]) => [
      link(training, other),
      shown(cosine),
      `twin; they fire apart on ${shown(divergence)} of their strong tokens`,
    ];
    const elsewhere = ([number, other, cosine, matched]) => [
      link(trainings[number], other),
      shown(cosine),
      matched ? "recurs: each is the other's nearest" : "nearest there; no match",
    ];
    const near = ([other, cosine]) => [link(training, other), shown(cosine), "near, same crosscoder"];
    const rows = [
      ...details.twins.map(twin),
      ...details.elsewhere.map(elsewhere),
      ...details.near.map(near),
    ];
    if (!rows.length) {
      const why = "It never fires on held-out text, or there is nothing to compare it with.";
      return [section("Relatives", "", element("p", {}, `It was not compared. ${why}`))];
    }
    const heading = (text) => element("th", { scope: "col" }, text);
    const head = element("tr", {}, ...["latent", "cosine", "what it is"].map(heading));
    const body = rows.map((row) => element("tr", {}, ...row.map((value) => element("td", {}, value))));
    const parts = [element("thead", {}, head), element("tbody", {}, ...body)];
    return [section("Relatives", "", element("table", { className: "relatives" }, ...parts))];
  }

  function context(found, vocabulary, largest) {
    const values = new Map(found.active);
    const spans = found.tokens.map((token, place) => {
      const value = values.get(place) || 0;
      const part = PARTS[Number(found.template[place])];
      const share = `${shown((value / largest) * 100, 0)} % of the largest`;
      const state = value ? `activation ${shown(value)}, ${share}` : "silent";
      const title = [state, part].filter(Boolean).join("; ");
      const className = [value ? "active" : "", part ? "template" : ""].join(" ").trim();
      const span = element("span", { title, className }, vocabulary[token]);
      if (value) {
        span.style.setProperty("--strength", (value / largest).toFixed(3));
        span.dataset.value = shown(value, 1);
      }
      return span;
    });
    return element("p", { className: "context" }, ...spans);
  }

  function contexts(details, vocabulary, largest, place) {
    const hint = "Point at a token, or tap it, to read its activation.";
    const readout = element("output", { className: "readout" }, hint);
    const tell = (event) => {
      const span = event.target.closest(".context span");
      if (span) readout.textContent = `“${span.textContent}” ${span.title}`;
    };
    const values = element("input", { type: "checkbox", id: "show-values" });
    values.addEventListener("change", () => place.classList.toggle("with-values", values.checked));
    place.classList.remove("with-values");
    const lines = (chosen) => chosen.map((found) => context(found, vocabulary, largest));
    const strongest = details.contexts.filter((found) => found.strongest);
    const drawn = details.contexts.map((found) => found.quantile).filter((quantile) => quantile !== null);
    const quantiles = [...new Set(drawn)].sort((a, b) => b - a);
    const sampled = quantiles.flatMap((quantile) => [
      element("h4", {}, `peak up to ${shown(quantile * 100, 0)} % of the largest activation`),
      ...lines(details.contexts.filter((found) => found.quantile === quantile)),
    ]);
    const silent = "There is none: it never fires on the text that was searched.";
    const made = element(
      "div",
      {},
      section(
        "Contexts",
        "A stronger activation is darker and has a thicker underline. " +
          "Tokens of the chat template are in dotted boxes. ↵ is a line break.",
        element("p", {}, element("label", {}, values, " write the values next to the tokens")),
        readout,
        element("h4", {}, "strongest"),
        ...(strongest.length ? lines(strongest) : [element("p", {}, silent)]),
      ),
    );
    if (sampled.length) {
      const help =
        "These are drawn from every quantile of its activation. " +
        "The strongest contexts alone make a latent look cleaner than it is.";
      made.append(section("Drawn at random", help, ...sampled));
    }
    made.addEventListener("mouseover", tell);
    made.addEventListener("click", tell);
    return made;
  }

  function catalogue(training, piece, latent) {
    const which = `crosscoder: ${training.crosscoder}, seed: ${training.seed}, weights: "${piece.weights}"`;
    const entry = `- {${which}, latent: ${latent}, name: "", note: ""}`;
    const help = "Put this line into the catalogue (config key catalogue), under latents:";
    return section("Name it", help, element("pre", { tabIndex: 0 }, entry));
  }

  // Put a latent into ``place``. ``trainings`` are all of the run, for links to the others.
  async function show(place, training, trainings, piece, latent, chunk) {
    const [pieces, vocabulary] = await Promise.all([
      crossdiff.load(`${training.name}/${Math.floor(latent / chunk) * chunk}`),
      crossdiff.load("vocabulary"),
    ]);
    const details = pieces[latent % chunk];
    const name = piece.columns.name[latent];
    const given = name ? [element("span", { className: "given-name" }, ` ${name}`)] : [];
    const stale = piece.stale
      .filter((entry) => entry.latent === latent)
      .map(
        (entry) => `The catalogue has the name “${entry.name}”, but of other weights (${entry.weights}).`,
      );
    place.replaceChildren(
      element("h2", { tabIndex: -1 }, `${training.link}/${latent}`, ...given),
      ...(piece.notes[latent] ? [element("p", {}, piece.notes[latent])] : []),
      ...stale.map((text) => element("p", { className: "caution" }, `${text} It is stale and not used.`)),
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
